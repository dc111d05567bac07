"""Files that never end, or are larger than the memory, named by a list or lying in a folder."""

import json
import os
import resource
import subprocess
import sys
import tarfile

import pytest
from commands import environment
from made_images import make_folder

pytestmark = pytest.mark.reliability

MEMORY = 2 << 30  # bytes a writer may map
SPARSE = 20_000_000_000


def write(source, dest):
    """The writer in a process of its own; standard input is a pipe that nobody writes to."""
    reader, writer = os.pipe()
    try:
        return subprocess.run(
            [sys.executable, "-m", "data.write", source, dest, "--max-bad-ratio", "1", "--workers", "1"],
            stdin=reader,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
    finally:
        os.close(reader)
        os.close(writer)


def reasons(dest):
    lines = map(json.loads, (dest / "bad.jsonl").read_text().splitlines())
    return {line["source"].rpartition("/")[2]: line["reason"] for line in lines}


def test_only_files_of_an_images_size_are_read(tmp_path):
    source = make_folder(tmp_path / "in", 4, classes=())
    os.mkfifo(source / "pipe.jpg")
    with (source / "sparse.jpg").open("wb") as file:
        file.truncate(SPARSE)
    names = [*sorted(file.name for file in source.glob("*.jpg")), "/dev/zero", "/dev/stdin", "/proc/kmsg"]
    (source / "list.csv").write_text("path\n" + "\n".join(names))
    limit = f"it has {SPARSE:,} bytes, more than it can have ({512 << 20:,})"

    odd = "it is no regular file"
    done = write(source / "list.csv", tmp_path / "listed")
    assert done.returncode == 0, done.stderr
    found = reasons(tmp_path / "listed")
    assert "empty" in (kmsg := found.pop("kmsg")) or "permitted" in kmsg or "denied" in kmsg  # root alone may open it
    assert found == {"pipe.jpg": odd, "sparse.jpg": limit, "zero": odd, "stdin": odd}

    done = write(source, tmp_path / "folder")
    assert done.returncode == 0, done.stderr
    assert reasons(tmp_path / "folder") == {
        "pipe.jpg": "not a file",
        "sparse.jpg": limit,
        "list.csv": "not an image by its name (.csv)",
    }


def test_a_member_of_a_tar_that_is_larger_than_the_memory(tmp_path):
    source = make_folder(tmp_path / "in", 2, classes=())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for file in sorted(source.glob("*.jpg")):
            tar.add(file, file.name)
        info = tarfile.TarInfo("huge.jpg")
        info.size = SPARSE
        tar.fileobj.write(info.tobuf(tarfile.PAX_FORMAT))
        tar.offset = tar.fileobj.tell() + -(-SPARSE // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        tar.fileobj.seek(tar.offset)  # its zeros are a hole
    done = write(tmp_path / "a.tar", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert reasons(tmp_path / "out")["huge.jpg"].startswith(f"it has {SPARSE:,} bytes, more than")


def test_a_pipe_named_like_a_tar(tmp_path):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "a.tar")
    done = write(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 3
    assert "a.tar is no regular file" in done.stderr
    command = [sys.executable, "-m", "data.write", "index", str(tmp_path / "in")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 3
    assert "All tars are files" in done.stderr
