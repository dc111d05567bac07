import io
import os
import re
import subprocess
import sys
import time

import pytest
from made_images import make_folder

from data.shards.local import ShardSet
from data.write.__main__ import main
from data.write.writer import WriteOptions, progress_bar, write_shards
from swinmim.errors import ConfigError, DataError

OPTIONS = WriteOptions(resize=32, workers=1, shard_samples=7)


def interrupt(source, dest, after=17, options=OPTIONS):
    def stop(done, total):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(source, dest, options, stop)


def files(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_an_interrupted_writing_goes_on(folder, tmp_path, shard_dir):
    options = WriteOptions(resize=32, workers=1, shard_samples=7)

    def stop(done, total):
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, tmp_path / "out", options, stop)
    with pytest.raises(DataError, match="quality was 95, is 50"):
        write_shards(folder, tmp_path / "out", WriteOptions(resize=32, workers=1, shard_samples=7, quality=50))
    with pytest.raises(DataError, match="directory with manifest"):
        ShardSet.open(tmp_path / "out")
    done = []
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"torn")
    write_shards(folder, tmp_path / "out", options, lambda n, total: done.append(n), verify=True)
    assert done[0] == 8  # one shard was taken over
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == {
        f.name: f.read_bytes() for f in shard_dir.iterdir()
    }


def test_too_many_bad_images_fail_and_keep_what_is_done(folder, tmp_path, capsys):
    source = make_folder(tmp_path / "in", 9, classes=())
    (source / "bad.jpg").write_bytes(b"x")
    assert main([str(source), str(tmp_path / "out"), "--workers", "1"]) == 3
    said = capsys.readouterr().err
    assert "At most 1% of the files may be unusable, got 1 of 10:" in said
    assert "--max-bad-ratio 0.1 (what is done is kept)" in said
    assert main([str(source), str(tmp_path / "out"), "--workers", "1", "--max-bad-ratio", "0.1"]) == 0
    assert main([str(source), str(tmp_path / "new"), "--limit", "4", "--dry-run"]) == 0
    assert "would write 4 images" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="at least 1"):
        WriteOptions(limit=0)


def test_a_file_that_changed_is_another_plan(tmp_path):
    source = make_folder(tmp_path / "in", 20)
    interrupt(source, tmp_path / "out")
    os.utime(source / "cat" / "0000.jpg", (1, 1))
    with pytest.raises(DataError, match="the source has changed"):
        write_shards(source, tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("verify", [False, True])
def test_other_bytes_of_the_same_size_are_found_by_verify(folder, shard_dir, verify, tmp_path):
    interrupt(folder, tmp_path / "out")
    shard = tmp_path / "out" / "train-000001.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    write_shards(folder, tmp_path / "out", OPTIONS, verify=verify)
    assert (files(tmp_path / "out") == files(shard_dir)) == verify


def test_writing_stops_when_too_many_are_bad(tmp_path):
    source = make_folder(tmp_path / "in", 300, classes=(), height=8, width=8)
    for number in range(0, 300, 3):
        (source / f"{number:04d}.jpg").write_bytes(b"x")
    done = []
    options = {"workers": 1, "shard_samples": 10}
    with pytest.raises(DataError, match=r"At most 10% .* got \d\d of 300 so far:\n  \d\d x not an image"):
        write_shards(source, tmp_path / "out", WriteOptions(max_bad_ratio=0.1, **options), lambda n, _: done.append(n))
    assert 60 < done[-1] < 150
    assert 31 <= len((tmp_path / "out" / "bad.jsonl").read_text().splitlines()) < 41
    held = len(list((tmp_path / "out").glob("*.tar")))
    assert held == done[-1] // 10
    with pytest.raises(DataError, match=r"At most 5%"):  # at once: the shards that are there hold too many
        write_shards(source, tmp_path / "out", WriteOptions(max_bad_ratio=0.05, **options), lambda n, _: 1 / 0)
    write_shards(source, tmp_path / "out", WriteOptions(max_bad_ratio=0.4, **options), lambda n, _: done.append(n))
    assert done[-1] == 300
    write_shards(source, tmp_path / "whole", WriteOptions(**options))
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_one_process_at_a_time_writes(folder, tmp_path):
    def second(done, total):
        with pytest.raises(DataError, match="One process at a time"):
            write_shards(folder, tmp_path / "out", OPTIONS)

    write_shards(folder, tmp_path / "out", OPTIONS, second)
    assert len(ShardSet.open(tmp_path / "out")) == 40


def test_progress_counts_what_this_call_did(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("writing") as progress:
        for done in range(900_001, 900_004):
            time.sleep(0.11)
            progress(done, 1_000_000)
    rates = re.findall(r"([\d.]+) images/s", terminal.getvalue())
    assert "900003/1000000" in terminal.getvalue()
    assert rates
    assert all(float(rate) < 100 for rate in rates)


@pytest.mark.slow
def test_a_killed_writer_is_resumed_to_the_same_bytes(tmp_path):
    source = make_folder(tmp_path / "in", 240, height=160, width=160)
    arguments = ["--shard-samples", "8", "--workers", "2"]

    def write(dest):
        return subprocess.Popen([sys.executable, "-m", "data.write", str(source), str(dest), *arguments])

    process = write(tmp_path / "out")
    while not (tmp_path / "out" / "train-000003.part.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert len(list((tmp_path / "out").glob("*.part.json"))) < 30
    time.sleep(0.5)
    held = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    time.sleep(0.5)  # the writers died with their parent
    assert held == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert write(tmp_path / "out").wait() == 0
    assert write(tmp_path / "whole").wait() == 0
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "whole").iterdir()
    }
