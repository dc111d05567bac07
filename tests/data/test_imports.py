"""What writes shards starts without torch, which takes seconds and a gigabyte in each process."""

import os
import subprocess
import sys

import pytest


def test_the_writer_and_the_codecs_import_no_torch():
    code = "import data.write.__main__, data.codecs.decode, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_no_process_that_writes_shards_imports_torch(folder, tmp_path):
    """Python tells on stderr what it imports, in every process that it starts."""
    ended = subprocess.run(
        [sys.executable, "-m", "data.write", str(folder), str(tmp_path / "out"), "--workers", "2"],
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = [line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time")]
    assert {"data.write.workers", "data.codecs.encode"} <= set(imported)
    assert [name for name in imported if name.partition(".")[0] in ("torch", "torchvision", "lightning")] == []
