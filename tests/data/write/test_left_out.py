"""Files that are not in the set: none of them vanishes."""

import re

import numpy as np
import pytest
from made_images import image_bytes, make_folder, make_pixels

from data.config import DataConfig
from data.open import open_labelled, open_source
from data.shards.local import ShardSet
from data.sources.source import INDEX, NO_EXTENSION, TWICE, is_lost, not_an_image
from data.write.__main__ import main
from data.write.left_out import Allowance, TooManyLeftOut, reasons
from swinmim.errors import DataError


def settings(tmp_path, **changed):
    common = {
        "path": "x", "val_ratio": 0.1, "cache_dir": str(tmp_path / "cache"), "pack_resize": 32, "pack_quality": 95,
        "stats": "auto", "num_workers": 0, "max_bad_fraction": 0.001,
    }  # fmt: skip
    return DataConfig(**common | changed)


@pytest.fixture
def source(tmp_path):
    """40 images, 6 of a format that is not read, 3 damaged ones, and 2 texts."""
    folder = make_folder(tmp_path / "in", 40)
    for number in range(6):
        (folder / "cat" / f"{number}.heic").write_bytes(b"x")
    for number in range(3):
        (folder / "dog" / f"{number}.jpg").write_bytes(b"x")
    (folder / "dog" / "0001.txt").write_text("a dog")
    (folder / "README").write_text("pets")
    return folder


def test_too_many_stop_the_run_with_a_count_and_what_to_add(source, tmp_path, capsys):
    with pytest.raises(TooManyLeftOut) as stopped:
        open_source(source, settings(tmp_path))
    said = str(stopped.value)
    assert "At most 0.1% of the files may be unusable, got 9 of 49:" in said
    assert "6 x not an image by its name (.heic): cat/0.heic, ..." in said
    assert "3 x not an image (UnidentifiedImageError): dog/" in said
    override = re.search(r"data\.max_bad_fraction=([\d.]+)", said)
    assert float(override[1]) == 0.184
    (listed,) = (tmp_path / "cache").glob("*/bad.jsonl")
    assert len(listed.read_text().splitlines()) == 11

    def stop(*_):
        raise AssertionError("it goes on where it was")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.write.workers.encode_item", stop)
        packed = open_source(source, settings(tmp_path, max_bad_fraction=float(override[1])))
    assert len(packed) == 40
    said = capsys.readouterr().out
    assert "found 40 images in 2 folders, 11 skipped, 2 classes" in said
    assert "1 x not an image by its name (.txt): dog/0001.txt" in said


def test_a_second_folder_is_judged_too(source, tmp_path):
    make_folder(tmp_path / "set" / "train", 4)
    source.rename(tmp_path / "set" / "val")
    with pytest.raises(TooManyLeftOut, match="got 9 of 49"):
        open_labelled(str(tmp_path / "set"), settings(tmp_path), "label")


def test_the_command_names_its_own_option(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), "--workers", "1"]) == 3
    assert "--max-bad-ratio 0.184 (what is done is kept)" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "out"), "--workers", "1", "--max-bad-ratio", "0.184"]) == 0
    assert "6 x not an image by its name (.heic)" in capsys.readouterr().out


def test_nothing_usable_is_no_question_of_a_ratio(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"No usable image among 4 files:\n  4 x not an image"):
        open_source(folder, settings(tmp_path, max_bad_fraction=0.5))


def test_the_limit_of_pixels_names_its_setting_which_exists(tmp_path):
    folder = make_folder(tmp_path / "in", 4, classes=())
    (folder / "large.jpg").write_bytes(image_bytes(make_pixels(0, 96, 128)))
    small = {"max_pixels": 64 * 48, "pack_resize": None}
    with pytest.raises(
        TooManyLeftOut, match=r"1 x 128x96 exceeds max_pixels=3072 \(data\.max_pixels, or --max-pixels of"
    ):
        open_source(folder, settings(tmp_path, **small))
    assert len(open_source(folder, settings(tmp_path, pack_resize=None, max_pixels=96 * 128))) == 5
    assert DataConfig.max_pixels == 100_000_000
    with pytest.raises(ValueError, match="max_pixels must be at least 1"):
        settings(tmp_path, max_pixels=0)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("a.heic", True), ("a.avif", True), ("b/c.db", True), ("a", True), ("a.txt", False), ("a.JSON", False),
        ("x/README", False), ("LICENSE", False), ("train-000000.index.npy", False),
    ],
)  # fmt: skip
def test_documents_are_not_missed(name, lost):
    assert is_lost(name, not_an_image(name)) == lost


def test_reasons_that_concern_no_image():
    assert not is_lost("a", INDEX)
    assert not is_lost("a", TWICE)
    assert is_lost("a", NO_EXTENSION)
    assert is_lost("readme", "not a file")


@pytest.mark.parametrize("bad", [29, 7, 1, 33])
def test_the_share_that_is_named_will_do(bad, tmp_path):
    entries = [(f"{n}.jpg", "empty file") for n in range(bad)]
    with pytest.raises(TooManyLeftOut) as stopped:
        Allowance((), 100, 0, "ratio=", tmp_path).check(entries, whole=True)
    ratio = float(re.search(r"ratio=([\d.]+)", str(stopped.value))[1])
    Allowance((), 100, ratio, "ratio=", tmp_path).check(entries, whole=True)
    with pytest.raises(TooManyLeftOut, match=rf"got {bad} of 100 so far(.|\n)*ratio=1 "):
        Allowance((), 100, 0, "ratio=", tmp_path).check(entries, whole=False)
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == bad


def test_reasons_of_one_kind_are_one_line():
    files = [("a", "3x3 is smaller than min_side=8"), ("b", "4x4 is smaller than min_side=8"), ("c", "empty file")]
    assert reasons(files) == "2 x 3x3 is smaller than min_side=8: a, ...\n  1 x empty file: c"
    many = reasons([(str(n), "x" * n) for n in range(1, 13)])
    assert len(many.splitlines()) == 9
    assert many.endswith("and 4 other reasons")
    assert reasons([]) == ""
    assert reasons([("\x1b[31m\nü", "empty file")]) == "1 x empty file: \\x1b[31m\\nü"


def test_bands_are_packed_as_the_model_takes_them(tmp_path, capsys):
    folder = tmp_path / "in [5]"
    folder.mkdir()
    for number in range(4):
        np.save(folder / f"{number}.npy", np.full((32, 48, 5), number, np.uint8))
    with pytest.raises(DataError, match=r"bands are counted by model\.in_chans, and by --channels of data\.write"):
        open_source(folder, settings(tmp_path))
    packed = open_source(folder, settings(tmp_path), 5)
    assert (packed.channels, len(packed)) == (5, 4)
    assert isinstance(packed, ShardSet)
    said = capsys.readouterr().out
    assert f"data.write '{folder}' SHARDS --channels 5 --value-range LOW HIGH" in said
    open_source(folder, settings(tmp_path), 5)
    assert "LOW HIGH" not in capsys.readouterr().out
    with pytest.raises(DataError, match="images have 1 or 3 channels, the set wants 5"):
        open_source(make_folder(tmp_path / "colour", 4), settings(tmp_path), 5)
    assert open_source(tmp_path / "colour", settings(tmp_path), 1).channels == 1


def test_a_folder_with_a_long_name(tmp_path):
    folder = make_folder(tmp_path / ("ü" * 120), 4)
    assert len(open_source(folder, settings(tmp_path))) == 4
