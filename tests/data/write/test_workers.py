import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from made_images import image_bytes, make_folder, make_pixels

from data.codecs.encode import Encoded, EncodeOptions, encode
from data.sources.source import Item, Source
from data.write.workers import encoded
from swinmim.errors import DataError

OPTIONS = EncodeOptions(resize=16)


@dataclass(frozen=True)
class MadeSource(Source):
    """Small images, but for those that are damaged, missing, or end the process that reads them."""

    deadly: int = -1

    @classmethod
    def of(cls, count, deadly=-1):
        return cls([Item(f"{n}.jpg", -1, 50_000, 0) for n in range(count)], deadly=deadly)

    def load(self, position):
        if position == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if position % 20 == 7:
            return b"<html>"
        if position % 20 == 8:
            raise FileNotFoundError(2, "gone")
        return image_bytes(make_pixels(position, 24, 30))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_images_and_reasons_come_in_the_order_of_asking(workers):
    source, positions = MadeSource.of(150), [*range(149, -1, -2), *range(0, 150, 2)]
    found = list(encoded(source, positions, OPTIONS, workers))
    assert len(found) == 150
    for position, outcome in zip(positions, found, strict=True):
        match position % 20:
            case 7:
                assert outcome == "not an image (UnidentifiedImageError)"
            case 8:
                assert outcome == "[Errno 2] gone"
            case _:
                assert isinstance(outcome, Encoded)
                assert outcome == encode(source.load(position), OPTIONS)


@pytest.mark.slow
def test_a_process_that_dies_names_what_it_read():
    with pytest.raises(DataError, match=r"(?s)encoder process died.*\b77\.jpg.*--workers 1"):
        list(encoded(MadeSource.of(150, deadly=77), range(150), OPTIONS, 2))


@pytest.mark.slow
def test_a_consumer_that_stops_early_leaves_no_process_behind():
    images = encoded(MadeSource.of(150), range(150), OPTIONS, 2)
    next(images)
    assert len(multiprocessing.active_children()) == 2
    images.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_packing_a_folder_loads_no_client_of_a_server(tmp_path):
    make_folder(tmp_path / "in", 4)
    code = (
        "import sys; from data.config import DataConfig; from data.open import open_source;"
        "config = DataConfig(path='x', val_ratio=0.1, cache_dir=sys.argv[2], pack_resize=None, pack_quality=95,"
        " stats='auto', num_workers=0, max_bad_fraction=0);"
        "open_source(sys.argv[1], config);"
        "clients = {'aiohttp', 'botocore', 'gcsfs', 's3fs', 'fsspec.implementations.http'};"
        "print(clients & sys.modules.keys(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "cache")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 1.0])  # while the processes start, and while they encode
def test_an_interrupt_is_answered_once_and_without_a_stack_trace(tmp_path, after):
    image = make_folder(tmp_path / "in", 1, height=600, width=600, classes=()) / "0000.jpg"
    for copy in range(3000):
        os.link(image, tmp_path / "in" / f"{copy}.jpg")
    command = [sys.executable, "-m", "data.write", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list((tmp_path / "out").glob("*.tar.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("interrupted; an unfinished set goes on")
    assert "Traceback" not in said
