import errno
import os

import pytest
from made_images import image_bytes, make_folder, make_pixels
from made_tars import jpeg, tar
from PIL import Image

from data.codecs import decode as decode_module
from data.shards.archive import TarWriter
from data.shards.local import ShardSet
from data.write import commands
from data.write.__main__ import main
from data.write.writer import WriteOptions
from swinmim.errors import ConfigError


def test_mistakes_are_answered_without_a_stack_trace(folder, shard_dir, tmp_path, capsys):
    (tmp_path / "file").touch()
    tars = tmp_path / "tars"
    tars.mkdir()
    tar(tars / "x.tar", [("a.jpg", jpeg(0))])
    (tmp_path / "wide.csv").write_text(f"path\n{'x' * 200_000}\n")
    sheet = ["info", str(shard_dir), "--sheet"]
    for arguments, code, message in [
        ([str(folder), str(tmp_path / "file")], 3, "written into a directory, got"),
        ([str(folder), str(tmp_path / "file" / "out")], 3, "written into a directory, got"),
        ([str(folder), str(shard_dir), "--dry-run"], 3, "already a shard set"),
        (["https://example.org/set.tar", str(tmp_path / "out")], 3, "A source lies on this machine, got https://"),
        ([str(tmp_path / "wide.csv"), str(tmp_path / "out")], 3, "cannot be read (field larger than field limit"),
        (["index", str(tars), "--classes", str(tmp_path / "none")], 3, f"{tmp_path / 'none'}: No such file"),
        ([*sheet, str(tmp_path / "x.foo")], 2, "ends in .png or .jpg, got"),
        ([*sheet, str(tmp_path / "nope" / "x.png")], 3, "x.png: No such file"),
    ]:
        assert main(arguments) == code
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert message in said


def test_a_full_disk_keeps_what_is_done(folder, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = [str(folder), str(tmp_path / "out"), "--shard-samples", "7", "--workers", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "close", full)
        assert main(out) == 3
    assert capsys.readouterr().err == (
        "error: No space left on device. The shards that are done are kept: make room and call again.\n"
    )
    assert main(out) == 0


def test_index_in_a_read_only_directory(tmp_path, capsys, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(commands, "index_tars", refuse)
    assert main(["index", str(tmp_path)]) == 3
    assert capsys.readouterr().err == f"error: {tmp_path}: Permission denied.\n"


def test_a_dry_run_says_what_would_be_written(tmp_path, capsys):
    source = make_folder(tmp_path / "in", 4)
    (source / "cat" / "again.jpg").write_bytes((source / "cat" / "0000.jpg").read_bytes())
    (source / "dog" / "other.png").write_bytes(image_bytes(make_pixels(0, 9, 9), "PNG"))
    size = sum(file.stat().st_size for file in source.rglob("*.*")) - (source / "cat" / "0000.jpg").stat().st_size
    assert main([str(source), str(tmp_path / "new"), "--dedup", "exact", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"would write 5 images ({size:,} bytes at the source, 2 classes) as 1 shard(s); 1 other files" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0, "workers": -1}, "limit must be at least 1, got 0; workers must be at least 0, got -1"),
        ({"shard_samples": 0}, "shard_samples must be at least 1, got 0"),
        ({"shard_bytes": -5}, "shard_bytes must be at least 1, got -5"),
        ({"max_bad_ratio": 1.5}, "max_bad_ratio must lie between 0 and 1, got 1.5"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        WriteOptions(**options)


def test_verify_has_the_limit_of_pixels_that_the_set_was_written_with(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 1000)
    monkeypatch.setattr(commands, "MAX_PIXELS", 1000)
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(image_bytes(make_pixels(number)))
    made = [str(tmp_path / "in"), str(tmp_path / "out"), "--resize", "none", "--workers", "1", "--max-pixels", "5000"]
    assert main(made) == 0
    assert main(["verify", str(tmp_path / "out"), "--images"]) == 3
    assert "64x48 exceeds max_pixels=1000 (data.max_pixels, or --max-pixels of data.write)" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "out"), "--images", "--max-pixels", "5000"]) == 0


def test_only_the_first_of_several_pages_is_taken_and_said_once(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    pages = [Image.fromarray(make_pixels(number)) for number in range(3)]
    for name in ("a.tif", "b.tif"):
        pages[0].save(tmp_path / "in" / name, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "in" / "single.tif")
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("warning: 2 TIFFs have several pages, and only the first of each is read: a.tif, ...\n") == 1
    assert len(ShardSet.open(tmp_path / "out")) == 3
