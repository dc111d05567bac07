import numpy as np
import pytest
from made_images import image_bytes, make_folder, make_pixels
from PIL import Image

from data.shards.local import ShardSet
from data.write import duplicates
from data.write.__main__ import main
from data.write.duplicates import leaks
from data.write.writer import WriteOptions, write_shards


def written(path, images):
    """A set of {name: bytes}, stored as given."""
    path.mkdir()
    for name, data in images.items():
        (path / name).write_bytes(data)
    write_shards(path, path.with_name(f"{path.name}_set"), WriteOptions(resize=None, workers=1))
    return ShardSet.open(path.with_name(f"{path.name}_set"))


def smooth(number, height=120, width=160):
    """A picture with large forms, as photos have."""
    noise = np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_equal_files(tmp_path, capsys):
    one, two = (make_folder(tmp_path / name, 3, classes=()) for name in "ab")
    for number in range(3):
        (two / f"{number:04d}.jpg").write_bytes(image_bytes(make_pixels(number + 10)))
    for copy in range(2):
        (two / f"same{copy}.jpg").write_bytes((one / "0001.jpg").read_bytes())
    for source, name in ((one, "c"), (two, "d")):
        write_shards(source, tmp_path / name, WriteOptions(resize=None, workers=1))
    assert len(leaks(ShardSet.open(tmp_path / "c"), ShardSet.open(tmp_path / "d"))) == 2
    assert main(["leaks", str(tmp_path / "c"), str(tmp_path / "d")]) == 3
    assert f"1 images of {tmp_path / 'c'} are in {tmp_path / 'd'} too (2 pairs)" in capsys.readouterr().out


@pytest.mark.parametrize("block", [7, 2048])
def test_the_same_pictures_in_another_size_and_quality(block, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    pngs = {n: image_bytes(smooth(n), "PNG") for n in range(30)}
    jpegs = {n: image_bytes(smooth(n).resize((80, 60)), quality=40) for n in range(10, 50)}
    one = written(tmp_path / "a", {f"{n}.png": data for n, data in pngs.items()})
    two = written(tmp_path / "b", {f"{n}.jpg": data for n, data in jpegs.items()})
    number = {data: n for images in (pngs, jpegs) for n, data in images.items()}
    numbers = [
        {f"{record.shard} {record.key}": number[record.data] for record in map(shards.read, range(len(shards)))}
        for shards in (one, two)
    ]
    assert leaks(one, two) == []
    pairs = leaks(one, two, pictures=True)
    assert sorted((numbers[0][a], numbers[1][b]) for a, b in pairs) == [(n, n) for n in range(10, 30)]


def test_different_pictures_are_no_pair(tmp_path):
    one = written(tmp_path / "a", {f"{n}.jpg": image_bytes(smooth(n, 32, 40)) for n in range(100)})
    two = written(tmp_path / "b", {f"{n}.jpg": image_bytes(smooth(n, 32, 40)) for n in range(100, 200)})
    assert leaks(one, two, pictures=True) == []


def test_dark_and_flat_scans_are_no_pairs(tmp_path):
    def scans(first):
        made = {}
        for number in range(first, first + 10):
            pixels = np.zeros((64, 64, 3), np.uint8)
            y, x = 6 * (number % 10), 3 * number
            pixels[y : y + 8, x : x + 8] = 200
            made[f"{number}.png"] = image_bytes(pixels, "PNG")
            made[f"flat{number}.png"] = image_bytes(np.full((64, 64, 3), number, np.uint8), "PNG")
        return made

    one, two = written(tmp_path / "a", scans(0)), written(tmp_path / "b", scans(10))
    assert leaks(one, two, pictures=True) == []
    assert len(leaks(one, one, pictures=True)) == 20  # each scan is its own, flat ones by their bytes
