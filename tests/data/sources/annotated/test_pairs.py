"""Images with label masks: what values and colours mean, and what is said where they mean nothing."""

import numpy as np
import pytest
from made_images import make_pixels
from PIL import Image

from data.codecs.targets import IGNORED, decode_target
from data.sources.annotated.pairs import read_key, read_mask, read_pairs
from data.sources.find import find_source
from data.write.pack import pack
from data.write.writer import WriteOptions
from swinmim.errors import DataError

WHOLE = WriteOptions(resize=None, workers=1, max_bad_ratio=0.0)
NAMES = "sky\nsea\nold town\n"
COLOURS = "sky 0 0 255\nsea 0 128 128\nold town 90 0 9\n"


def make_pairs(root, masks, classes=None, kind="L"):
    """An image of 12 x 16 for each mask; a mask of None is left out."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, mask in enumerate(masks):
        Image.fromarray(make_pixels(number, 12, 16)).save(root / "images" / f"{number}.jpg")
        if mask is None:
            continue
        picture = Image.fromarray(mask)
        if kind == "P":
            picture = picture.convert("P") if mask.ndim == 3 else picture
            picture.putpalette([0, 0, 255, 0, 128, 128, 90, 0, 9])
        picture.save(root / "masks" / f"{number}.png")
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def drawn(number=0, classes=3):
    return np.random.default_rng(number).integers(0, classes, (12, 16), dtype=np.uint8)


def targets(source):
    return [decode_target("mask", source.load_target(n), len(source.classes)) for n in range(len(source.items))]


def reasons(source):
    found = []
    for position in range(len(source.items)):
        try:
            source.load_target(position)
        except OSError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("kind", ["L", "P"])
@pytest.mark.parametrize("classes", [NAMES, COLOURS, None])
def test_index_masks(tmp_path, kind, classes):
    """Grey ones with names, palettes by their numbers, or by their colours where classes.txt gives some."""
    if (kind, classes) == ("L", COLOURS):
        pytest.skip("grey values are no colours")
    masks = [drawn(0), drawn(1)]
    masks[0][0, 0] = 2
    if kind == "L":
        masks[1][3, 4] = IGNORED
    source = find_source(str(make_pairs(tmp_path, masks, classes, kind)), "mask")
    assert source.target == "mask"
    assert source.classes == (("sky", "sea", "old town") if classes else ("0", "1", "2"))
    assert all(map(np.array_equal, targets(source), masks))
    assert [item.name for item in source.items] == ["images/0.jpg", "images/1.jpg"]


def test_colours_are_classes_by_their_lines(tmp_path):
    palette = np.array([[0, 0, 255], [0, 128, 128], [90, 0, 9]], np.uint8)
    mask = drawn()
    source = read_pairs(make_pairs(tmp_path, [palette[mask]], COLOURS), None)
    assert np.array_equal(targets(source)[0], mask)
    ignoring = read_pairs(tmp_path, None, ignore_index=1)
    assert ignoring.classes == ("sky", "old town")
    assert np.array_equal(targets(ignoring)[0], np.array([0, IGNORED, 1])[mask])


@pytest.mark.parametrize("classes", [NAMES, None])
def test_the_ignored_value_is_no_class_and_those_behind_it_move_up(tmp_path, classes):
    mask = drawn()
    source = read_pairs(make_pairs(tmp_path, [mask], classes), None, ignore_index=0)
    assert source.classes == (("sea", "old town") if classes else ("1", "2"))
    assert np.array_equal(targets(source)[0], np.array([IGNORED, 0, 1])[mask])
    again = read_pairs(tmp_path, source.classes, ignore_index=0)  # as the second part of the set
    assert np.array_equal(targets(again)[0], targets(source)[0])


def test_a_part_without_names_of_its_own_has_those_of_training_for_the_same_values(tmp_path):
    train, val = make_pairs(tmp_path / "a" / "train", [drawn()], NAMES), make_pairs(tmp_path / "b" / "val", [drawn()])
    for ignored in (0, 1, 255):
        source = read_pairs(train, None, ignore_index=ignored)
        other = read_pairs(val, source.classes, ignore_index=ignored)
        assert np.array_equal(targets(other)[0], targets(source)[0])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_masks_of_few_bits_keep_their_numbers(tmp_path, depth):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2**depth
    picture = Image.fromarray(values)
    if depth == 1:
        picture = Image.fromarray(values.astype(bool))
        picture.save(tmp_path / "a.png")
    else:
        (tmp_path / "a.png").write_bytes(png_of_few_bits(values, depth))
    assert np.array_equal(read_mask(tmp_path / "a.png", in_colours=False), values)


def png_of_few_bits(values, depth):
    import struct
    import zlib

    from made_images import png_chunk

    bits = ((values[..., None] >> np.arange(depth)[::-1]) & 1).reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], len(values), depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def test_what_is_wrong_with_a_mask_is_said_of_its_image(tmp_path):
    outside, small, colour = drawn(), drawn()[:6], np.zeros((12, 16, 3), np.uint8)
    outside[2, 3:5] = 7
    make_pairs(tmp_path, [drawn(), outside, None, small, colour], NAMES)
    (tmp_path / "masks" / "4.png").rename(tmp_path / "masks" / "4b.png")
    Image.fromarray(colour).save(tmp_path / "masks" / "4.png")
    assert reasons(read_pairs(tmp_path, None)) == [
        "its mask masks/1.png cannot be used: the value 7 in it is none of 3 classes, on 2 pixels. Name it in"
        " classes.txt, or leave it out with data.ignore_index=7",
        "it has no mask: a PNG named 2.png",
        "its mask masks/4.png cannot be used: it holds colours, and classes.txt gives none (lines: name r g b)",
    ]
    with pytest.raises(DataError, match=r"got 4 of 5:(.|\n)*its mask has 16x6 pixels, the image 16x12: images/3\.jpg"):
        pack(tmp_path, tmp_path / "cache", WHOLE, needs="mask")


def test_a_colour_outside_the_list_is_named(tmp_path):
    mask = np.full((12, 16, 3), (0, 0, 255), np.uint8)
    mask[4, 4] = 1, 2, 3
    (reason,) = reasons(read_pairs(make_pairs(tmp_path, [mask], COLOURS), None))
    assert "masks/0.png cannot be used: the colour 1 2 3 in it is not in classes.txt, on 1 pixels" in reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no class"),
        ("sky\n\nsea\n", "has an empty line"),
        ("sky\nsky\n", "names a class twice"),
        ("sky 1 2 3\nsea\n", "has colours on some lines only"),
        ("sky 1 2 3\nsea 1 2 3\n", "has a colour twice"),
        ("sky 1 2 300\n", "has a colour beyond 255"),
        ("\n".join(map(str, range(256))), "has 256 classes, and masks hold up to 255|has 255"),
    ],
)
def test_lists_of_classes_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    if text.endswith("255"):
        assert len(read_key(path).names) == 255  # the value 255 is ignored
        path.write_text(text + "\n256")
    with pytest.raises(DataError, match=r"classes\.txt " + message):
        read_key(path)


def test_without_any_pair_both_folders_are_named(tmp_path):
    make_pairs(tmp_path, [drawn()])
    (tmp_path / "masks" / "0.png").rename(tmp_path / "masks" / "0_mask.png")
    with pytest.raises(DataError, match=r"images/ has 0\.jpg and masks/ has 0_mask\.png\. Rename"):
        read_pairs(tmp_path, None)
    make_pairs(tmp_path / "b", [np.zeros((12, 16, 3), np.uint8)])
    with pytest.raises(DataError, match=r"told by classes\.txt, lines of name r g b; .*masks/0\.png is in colours"):
        read_pairs(tmp_path / "b", None)
    assert read_pairs(tmp_path / "masks", None) is None


def test_masks_that_are_none_are_told_from_masks_of_other_names(tmp_path):
    root = make_pairs(tmp_path, [drawn()])
    (root / "masks" / "0.png").unlink()
    with pytest.raises(DataError, match=r"masks is empty\. Put the masks there"):
        read_pairs(root, None)
    Image.fromarray(drawn()).save(root / "masks" / "0.jpg")
    with pytest.raises(DataError, match=r"masks/ has 0\.jpg\. Write the masks as PNGs"):
        read_pairs(root, None)


def test_parts_of_a_set_have_the_same_classes(tmp_path):
    train, val = (make_pairs(tmp_path / part, [drawn()]) for part in ("train", "val"))
    (tmp_path / "classes.txt").write_text(NAMES)  # above both
    assert read_pairs(val, read_pairs(train, None).classes).classes == ("sky", "sea", "old town")
    (val / "classes.txt").write_text("sea\nsky\nold town\n")
    with pytest.raises(DataError, match=r"same classes; .*val/classes\.txt has sea, sky, old town, training sky"):
        read_pairs(val, read_pairs(train, None).classes)


def test_a_list_names_masks(tmp_path):
    make_pairs(tmp_path, [drawn(0), drawn(1)], NAMES)
    (tmp_path / "list.csv").write_text("path,mask\nimages/1.jpg,masks/1.png\nimages/0.jpg,\n")
    source = find_source(str(tmp_path / "list.csv"))
    assert (source.target, source.classes) == ("mask", ("sky", "sea", "old town"))
    assert np.array_equal(decode_target("mask", source.load_target(0), 3), drawn(1))
    assert reasons(source) == ["it has no mask: a PNG named 0.png"]
    (tmp_path / "list.csv").write_text("path,mask,label\nimages/1.jpg,masks/1.png,a\n")
    with pytest.raises(DataError, match=r"one kind of answer; .* has mask and label"):
        find_source(str(tmp_path / "list.csv"))


def test_the_packed_copy_depends_on_the_masks_and_their_meaning(tmp_path):
    make_pairs(tmp_path / "set", [drawn(0), drawn(1)], NAMES)

    def packed(ignore_index=IGNORED):
        return pack(tmp_path / "set", tmp_path / "cache", WHOLE, needs="mask", ignore_index=ignore_index)

    first = packed()
    assert packed() == first
    assert packed(0) != first
    Image.fromarray(drawn(5)).save(tmp_path / "set" / "masks" / "1.png")
    second = packed()
    (tmp_path / "set" / "classes.txt").write_text("sky\nsea\nold city\n")
    assert len({first, second, packed()}) == 3
