import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import masks_to_boxes

from data.codecs.targets import decode_target
from data.config import LabelledDataConfig
from data.open import open_labelled
from data.sources.digits import digit_target, read_digits
from swinmim.errors import DataError

CHOSEN = range(0, 1797, 97)


def targets(kind):
    source = read_digits(kind)
    return source, [decode_target(kind, source.load_target(n), len(source.classes)) for n in CHOSEN]


def inks(source):
    return [np.array(Image.open(io.BytesIO(source.load(n))).convert("L")) for n in CHOSEN]


def test_labels_are_the_digit_and_what_holds_of_it():
    source, labels = targets("labels")
    for number, applies in zip(CHOSEN, labels, strict=True):
        digit = int(source.digits[number])
        told = {source.classes[n] for n in np.flatnonzero(applies)}
        assert told == {str(digit)} | ({"even"} if digit % 2 == 0 else set()) | (
            {"loop"} if digit in (0, 6, 8, 9) else set()
        )


def test_values_are_those_of_the_pixels():
    source, values = targets("value")
    assert source.classes == ("ink", "slant")
    for ink, value in zip(inks(source), values, strict=True):
        rows, columns = np.nonzero(ink)
        slope = np.polyfit(rows, columns, 1, w=np.sqrt(ink[rows, columns], dtype=np.float64))[0]
        assert value == pytest.approx([ink.mean() / 255, -slope], rel=1e-5)


def test_what_leans_to_the_right_has_a_positive_slant():
    leaning = np.fliplr(np.eye(32)).astype(np.uint8) * 255
    assert digit_target("value", 1, leaning) == pytest.approx([1 / 32, 1.0])
    assert digit_target("value", 1, np.fliplr(leaning)) == pytest.approx([1 / 32, -1.0])


def test_masks_are_the_ink_by_its_digit():
    source, masks = targets("mask")
    for number, ink, mask in zip(CHOSEN, inks(source), masks, strict=True):
        assert ((mask > 0) == (ink > 127)).all()
        assert {source.classes[n] for n in np.unique(mask)} == {"background", str(source.digits[number])}


def test_boxes_are_around_the_ink():
    source, found = targets("boxes")
    for number, ink, objects in zip(CHOSEN, inks(source), found, strict=True):
        assert (objects.masks == (ink > 127)).all()
        corners = masks_to_boxes(torch.from_numpy(objects.masks)).numpy()
        assert (objects.boxes[:, :2] == corners[:, :2]).all()
        assert (objects.boxes[:, 2:] == corners[:, 2:] + 1 - corners[:, :2]).all()
        assert objects.labels.tolist() == [source.digits[number]]
        assert not objects.crowd.any()


@pytest.mark.parametrize("needs", ["nothing", "label", "clip"])
def test_whoever_needs_no_target_gets_classes(needs):
    source = read_digits(needs)
    assert source.target is None
    assert [item.label for item in source.items] == source.digits.tolist()


@pytest.mark.slow
def test_each_kind_has_a_packed_copy_of_its_own(tmp_path):
    config = LabelledDataConfig(
        path="builtin:digits", val_path=None, val_ratio=0.1, labels_per_class=None, cache_dir=str(tmp_path),
        pack_resize=None, pack_quality=95, stats="auto", num_workers=0, max_bad_fraction=0,
    )  # fmt: skip
    masks, none = open_labelled(config.path, config, "mask")
    assert (masks.target, len(masks), none) == ("mask", 1797, None)
    digits, _ = open_labelled(config.path, config, "label")
    assert (digits.target, len(digits.classes)) == (None, 10)
    assert (masks.path.name, digits.path.name) == ("digits-32-mask", "digits-32")
    with pytest.raises(DataError, match=r"task=video needs clips; .*digits-32 holds images"):
        open_labelled(config.path, config, "clip")
