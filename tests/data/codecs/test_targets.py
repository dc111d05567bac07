import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_images import image_bytes, png16, png_chunk, png_claiming
from PIL import Image

from data.codecs import targets
from data.codecs.decode import DecodeError
from data.codecs.targets import IGNORED, MEMBERS, Boxes, checked_target, decode_target, encode_target

CLASSES = 7
floats = st.floats(-(2.0**24), 2.0**24, width=32)
sides = st.floats(2.0**-20, 2.0**24, width=32)


@st.composite
def boxes(draw):
    number = draw(st.integers(0, 5))
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return Boxes(
        np.array([[draw(floats), draw(floats), draw(sides), draw(sides)] for _ in range(number)], np.float32).reshape(
            -1, 4
        ),
        draw(arrays.arrays(np.int64, number, elements=st.integers(0, CLASSES - 1))),
        draw(arrays.arrays(np.bool_, number)),
        draw(st.none() | arrays.arrays(np.bool_, (number, *size))),
    )


TARGETS = {
    "labels": arrays.arrays(np.bool_, CLASSES),
    "value": arrays.arrays(np.float32, CLASSES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    "mask": arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.integers(0, CLASSES - 1) | st.just(IGNORED),
    ),
    "boxes": boxes(),
}


def same(one, other):
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.shape == other.shape and (one == other).all()


@pytest.mark.parametrize("kind", MEMBERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_targets_come_back_as_they_were(kind, data):
    target = data.draw(TARGETS[kind])
    member = encode_target(kind, target, CLASSES)
    back = decode_target(kind, member, CLASSES)
    if kind == "boxes":
        assert all(same(getattr(back, name), getattr(target, name)) for name in ("boxes", "labels", "crowd", "masks"))
    else:
        assert same(back, target)
    assert encode_target(kind, back, CLASSES) == member  # one spelling for each


def test_members_are_plain():
    assert encode_target("labels", np.array([False, True, True]), 3) == b"[1,2]"
    assert encode_target("value", np.array([0.1, 3, -2.5e-9], np.float32), 3) == b"[0.1,3.0,-2.5e-09]"
    largest = np.array([np.finfo(np.float32).max], np.float32)  # its shortest spelling lies above it
    assert decode_target("value", encode_target("value", largest, 1), 1) == largest
    assert decode_target("labels", b" [ ]", 2).tolist() == [False, False]
    two = Boxes(np.array([[1, 2, 3, 4]] * 2, np.float32), np.array([0, 1]), np.array([False, True]))
    text = b'{"boxes":[[1.0,2.0,3.0,4.0],[1.0,2.0,3.0,4.0]],"labels":[0,1],"crowd":[0,1]}'
    assert encode_target("boxes", two, 2) == text
    grey = image_bytes(np.array([[0, 1], [1, IGNORED]], np.uint8), "PNG")
    assert decode_target("mask", grey, 2).tolist() == [[0, 1], [1, IGNORED]]
    assert decode_target("mask", grey, 2).flags.writeable  # torch wants to own it


def test_runs_are_those_of_coco():
    """The example of pycocotools' documentation: M = [0 0 1 1 1 0 1] has the runs [2 3 1 1]."""
    mask = np.array([0, 0, 1, 1, 1, 0, 1], np.bool_).reshape(7, 1)
    wide = np.array([[1, 1, 0], [1, 0, 0]], np.bool_)  # by columns 1 1 | 1 0 | 0 0
    for one, runs in ((mask, [2, 3, 1, 1]), (wide, [0, 3, 3])):
        target = Boxes(np.array([[0, 0, 1, 1]], np.float32), np.array([0]), np.array([False]), one[None])
        assert json.loads(encode_target("boxes", target, 1))["masks"] == {"size": list(one.shape), "counts": [runs]}


BOX = {"boxes": [[0, 0, 1, 1]], "labels": [0]}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("labels", {}, "labels must be a list of whole numbers from 0 to 6"),
        *(("labels", value, "labels must be a list") for value in ([7], [-1], [1.0], [True], ["1"], [None], [10**400])),
        *(("labels", value, "labels must rise") for value in ([1, 1], [2, 1])),
        *(("value", value, "a value must be a list of 7 numbers") for value in ([], [1] * 6, {}, 1, None)),
        *(("value", [value] * 7, "values must be numbers") for value in ("1", True, None, [1])),
        *(("value", [value] * 7, "values must be finite") for value in (1e39, -1e39, 10**400)),
        *(("boxes", value, "boxes must hold boxes and labels") for value in ([], {"boxes": []}, BOX | {"more": 1})),
        *(("boxes", BOX | {"boxes": value}, "boxes must be lists of x, y") for value in (1, [1], [[1, 2, 3]], [{}])),
        ("boxes", BOX | {"boxes": [[0, 0, 1, "1"]]}, "values must be numbers"),
        ("boxes", BOX | {"boxes": []}, "0 boxes have 1 labels and 0 marks of a crowd"),
        ("boxes", BOX | {"crowd": []}, "1 boxes have 1 labels and 0 marks"),
        ("boxes", BOX | {"crowd": [2]}, "crowd must be a list of whole numbers from 0 to 1"),
        ("boxes", BOX | {"labels": [7]}, "labels must be a list of whole numbers from 0 to 6"),
        *(("boxes", BOX | {"boxes": [box]}, "width and height above 0") for box in ([0, 0, 0, 1], [0, 0, 1, -1])),
        ("boxes", BOX | {"boxes": [[2**25, 0, 1, 1]]}, "lie within 16777216 pixels"),
        ("boxes", {"boxes": [[0, 0, 1, 1]] * 10_001, "labels": [0] * 10_001}, "10001 boxes exceed the limit"),
        *(("boxes", BOX | {"masks": m}, "masks must hold") for m in ([], {"size": [1, 1]})),
        ("boxes", BOX | {"masks": {"size": [0, 1], "counts": [[]]}}, "the size of masks must be"),
        ("boxes", BOX | {"masks": {"size": [1, 1, 1], "counts": [[1]]}}, "a height, a width and runs for each of 1"),
        ("boxes", BOX | {"masks": {"size": [1, 1], "counts": []}}, "a height, a width and runs for each of 1"),
        ("boxes", BOX | {"masks": {"size": [1, 1], "counts": [[2]]}}, "the runs of a mask must be .* from 0 to 1"),
        ("boxes", BOX | {"masks": {"size": [2, 2], "counts": [[1, 2]]}}, "the runs of a mask cover 3 of 4 pixels"),
        ("boxes", BOX | {"masks": {"size": [10**5, 10**5], "counts": [[10**10]]}}, "exceed 100000000 pixels"),
    ],
)
def test_json_that_cannot_be(kind, value, message):
    with pytest.raises(DecodeError, match=message):
        decode_target(kind, json.dumps(value).encode(), CLASSES)


@pytest.mark.parametrize("kind", ["labels", "value", "boxes"])
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[NaN]", b"[Infinity]", b"1" * 5000, b"[1] [2]"],
)
def test_what_is_no_json(kind, data):
    with pytest.raises(DecodeError, match="no JSON"):
        decode_target(kind, data, 1)


def test_large_json_is_not_parsed():
    with pytest.raises(DecodeError, match="8388609 bytes exceed the limit of 8388608 for a target"):
        decode_target("labels", b" " * (8 * 2**20 + 1), 1)


def palette():
    image = Image.fromarray(np.zeros((2, 2), np.uint8)).convert("P")
    return image_bytes(image, "PNG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (image_bytes(np.zeros((2, 2, 3), np.uint8)), "a mask must be a PNG"),
        (b"", "a mask must be a PNG"),
        (image_bytes(np.zeros((2, 2, 3), np.uint8), "PNG"), "a grey PNG of 8 bits, got RGB of 8"),
        (image_bytes(np.zeros((2, 2), np.bool_), "PNG"), "a grey PNG of 8 bits, got 1 of 1"),
        (palette(), "a grey PNG of 8 bits, got P of"),
        (png16(np.zeros((2, 2, 1), np.uint16)), "a grey PNG of 8 bits, got I;16 of 16"),
        (image_bytes(np.full((2, 2), CLASSES, np.uint8), "PNG"), "the mask holds class 7 of 7"),
        (png_claiming(20_000, 20_000), "exceeds max_pixels"),
        (image_bytes(np.zeros((2, 2), np.uint8), "PNG")[:-5], "damaged"),
        (image_bytes(np.zeros((2, 2), np.uint8), "PNG").replace(b"IDAT", b"IDOT"), "not an image"),
    ],
)
def test_masks_that_cannot_be(data, message):
    with pytest.raises(DecodeError, match=message):
        decode_target("mask", data, CLASSES)


def test_pixels_that_are_not_there_are_no_class_zero():
    whole = image_bytes(np.zeros((8, 8), np.uint8), "PNG")
    start = whole.index(b"IDAT") - 4
    short = whole[:start] + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    with pytest.raises(DecodeError, match="damaged pixels"):
        decode_target("mask", short, CLASSES)


@pytest.mark.parametrize("kind", MEMBERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_decode_error(kind, data):
    """Never another exception, never more memory: from bytes of all sorts, and members with a few bytes changed."""
    whole = bytearray(encode_target(kind, data.draw(TARGETS[kind]), CLASSES))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for member in (bytes(whole[: data.draw(st.integers(0, len(whole)))]), data.draw(st.binary(max_size=64))):
        with contextlib.suppress(DecodeError):
            decode_target(kind, member, CLASSES)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("labels", np.zeros(3, np.bool_)),
        ("labels", np.zeros(2, np.uint8)),
        ("value", np.zeros(2)),
        ("mask", np.zeros((2, 2), np.int64)),
        ("mask", np.zeros((2, 2, 1), np.uint8)),
        ("boxes", np.zeros((2, 4), np.float32)),
        ("labels", Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))),
    ],
)
def test_only_the_form_that_is_read_is_written(kind, target):
    with pytest.raises(DecodeError, match=f"is no target of the kind {kind} with 2 classes"):
        encode_target(kind, target, 2)


def test_values_that_are_no_numbers_are_not_written():
    with pytest.raises(DecodeError, match="no JSON"):
        encode_target("value", np.array([math.nan], np.float32), 1)


def test_a_mask_may_be_as_large_as_its_image(monkeypatch):
    """Which was allowed more pixels than others."""
    mask = np.ones((30, 40), np.uint8)
    data = encode_target("mask", mask, 2)
    boxes = Boxes(np.ones((1, 4), np.float32), np.zeros(1, np.int64), np.zeros(1, np.bool_), mask[None] == 1)
    runs = encode_target("boxes", boxes, 2)
    monkeypatch.setattr(targets, "MAX_PIXELS", 1000)
    assert encode_target("mask", mask, 2) == data
    assert encode_target("boxes", boxes, 2) == runs
    np.testing.assert_array_equal(checked_target("mask", data, 2, (30, 40)), mask)
    assert checked_target("boxes", runs, 2, (30, 40)).masks.shape == (1, 30, 40)
    with pytest.raises(DecodeError, match="40x30 exceeds max_pixels=1000"):
        checked_target("mask", data, 2, (20, 40))
    with pytest.raises(DecodeError, match="1 masks of 30x40 exceed 1000 pixels"):
        decode_target("boxes", runs, 2, 1000)
