import errno
import hashlib
import os
import threading

import pytest
import torch

from swinmim.checkpoint.digest import BLOCK, PIECE, HashedFile, digest


@pytest.mark.parametrize(
    "sizes", [(), (0,), (1,), (5, 0, 7), (PIECE,), (PIECE - 1, 2), (3 * PIECE + 5, 11), (BLOCK, 1, BLOCK)]
)
def test_hash_and_size_are_those_of_the_file(tmp_path, sizes):
    file = HashedFile(tmp_path / "file")
    parts = [os.urandom(size) for size in sizes]
    assert [file.write(part) for part in parts] == list(sizes)
    entry = file.close()
    content = (tmp_path / "file").read_bytes()
    assert content == b"".join(parts)
    assert entry == (len(content), hashlib.sha256(content).hexdigest()) == digest(tmp_path / "file", flush=True)


def test_torch_save_reads_back(tmp_path):
    state = {"w": torch.randn(300, 7), "view": torch.arange(10)[2:5], "n": [1, "a", None, True]}
    file = HashedFile(tmp_path / "state")
    torch.save(state, file)
    assert file.close() == digest(tmp_path / "state")
    again = torch.load(tmp_path / "state", weights_only=True)
    assert torch.equal(again["w"], state["w"])
    assert torch.equal(again["view"], state["view"])
    assert again["n"] == state["n"]


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "file")


def test_a_refused_write_is_remembered_and_leaves_no_thread(tmp_path):
    before = threading.active_count()
    file = HashedFile(tmp_path / "file")

    class Full:
        def __init__(self, real):
            self.fileno, self.close = real.fileno, real.close

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    file.write(b"start")
    file._file = Full(file._file)
    with pytest.raises(OSError, match="No space"):
        file.write(b"more")
    assert file.error is not None
    file.abandon()
    assert threading.active_count() == before
