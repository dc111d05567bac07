"""Masks are those of the COCO tools, from polygons, runs, and their short text; wrong runs are refused."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_masks
from made_boxes import PHOTOS, SIZE, coco, write_json, write_photos

from data.codecs.decode import DecodeError
from data.codecs.targets import decode_target
from data.sources.annotated import outlines
from data.sources.annotated.coco import read_coco
from data.sources.annotated.outlines import filled
from data.sources.annotated.yolo import read_yolo
from swinmim.errors import DataError

TRIANGLE = [3.0, 2.5, 40.25, 8.0, 12.0, 33.5]
SQUARE = [20, 20, 48, 20, 48, 39, 20, 39]


def theirs(polygons):
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, *SIZE))).astype(bool)


@pytest.fixture
def drawn():
    return np.random.default_rng(0).random(SIZE) < 0.3


def short(mask):
    runs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": runs["counts"].decode()}


def plain(mask):
    pixels = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(pixels)) + 1), pixels.size]
    return {"size": list(SIZE), "counts": [0] * bool(pixels[0]) + [int(n) for n in np.diff(edges)]}


def test_polygons_are_filled_as_the_coco_tools_fill_them():
    mask = filled([TRIANGLE, SQUARE], SIZE)
    assert np.array_equal(mask, theirs([TRIANGLE, SQUARE]))
    assert 0.2 < mask.mean() < 0.6
    shares = (np.array(SQUARE).reshape(-1, 2) / (SIZE[1], SIZE[0])).ravel().tolist()
    assert np.array_equal(filled([shares], SIZE, (SIZE[1], SIZE[0])), theirs([SQUARE]))


def test_corners_far_outside_cost_nothing():
    assert filled([[0, 0, 1e30, 0, 1e30, 1e30, 0, 1e30]], SIZE).all()


def test_runs_and_their_short_text_are_the_mask(drawn):
    for mask in (drawn, ~drawn, np.zeros_like(drawn), np.ones_like(drawn)):
        assert np.array_equal(filled(plain(mask), SIZE), mask)
        assert np.array_equal(filled(short(mask), SIZE), mask)


@pytest.mark.parametrize(
    "change",
    [{"size": [50, 40]}, {"counts": [1, 2]}, {"counts": [-5, 2005]}, {"counts": "\x7f\x7f"}, {"counts": "é"}],
)
def test_runs_that_do_not_fit_are_refused(drawn, change):
    with pytest.raises(DecodeError, match=r"the runs of a mask do not cover its 50x40 pixels"):
        filled(plain(drawn) | change, SIZE)


def test_a_number_without_end_is_refused():
    with pytest.raises(DecodeError, match="more than 40 bits"):
        filled({"size": list(SIZE), "counts": "o" * 1_000_000}, SIZE)


def test_a_set_where_all_have_an_outline_has_masks(tmp_path):
    write_photos(tmp_path / "train")
    write_json(tmp_path / "train.json", coco(segmentation=[TRIANGLE]))
    source = read_coco(tmp_path / "train")
    assert "3 boxes with masks" in source.notes[0]
    first, _, empty = (decode_target("boxes", source.load_target(n), 2) for n in range(3))
    assert np.array_equal(first.masks[0], theirs([TRIANGLE]))
    assert first.masks.shape == (2, *SIZE)
    assert empty.masks.shape == (0, *SIZE)


def test_one_without_outline_makes_a_set_of_boxes(tmp_path):
    write_photos(tmp_path / "train")
    content = coco(segmentation=[TRIANGLE])
    content["annotations"][0]["segmentation"] = []
    write_json(tmp_path / "train.json", content)
    assert decode_target("boxes", read_coco(tmp_path / "train").load_target(0), 2).masks is None


def test_a_crowd_without_outline_fills_its_box(tmp_path):
    write_photos(tmp_path / "train")
    content = coco(segmentation=[TRIANGLE])
    content["annotations"][0] |= {"segmentation": None, "iscrowd": 1}
    write_json(tmp_path / "train.json", content)
    crowd = decode_target("boxes", read_coco(tmp_path / "train").load_target(0), 2).masks[0]
    assert crowd[3:28, 2:22].all()
    assert crowd.sum() == 25 * 20


def test_polygons_of_yolo_have_boxes_and_masks(tmp_path):
    write_photos(tmp_path / "images", ["a.jpg"])
    (tmp_path / "labels").mkdir()
    shares = (np.array(SQUARE).reshape(-1, 2) / (SIZE[1], SIZE[0])).ravel()
    (tmp_path / "labels" / "a.txt").write_text(" ".join(map(str, [0, *shares])))
    target = decode_target("boxes", read_yolo(tmp_path).load_target(0), 1)
    np.testing.assert_allclose(target.boxes, [[20, 20, 28, 19]], rtol=1e-6)
    assert np.array_equal(target.masks[0], theirs([SQUARE]))


def test_without_the_library_the_command_is_named(tmp_path, monkeypatch):
    write_photos(tmp_path / "train")
    write_json(tmp_path / "train.json", coco(segmentation=[TRIANGLE]))
    monkeypatch.setattr(outlines, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"need faster-coco-eval: pip install 'swinmim\[detect\]'"):
        read_coco(tmp_path / "train")
    write_json(tmp_path / "train.json", coco())
    assert len(read_coco(tmp_path / "train").items) == len(PHOTOS)
