"""Boxes in three formats are the same boxes; what is wrong with them is said with the file and the fix."""

import json

import numpy as np
import pytest
from made_boxes import PHOTOS, SIZE, coco, write_json, write_photos, write_voc, write_yolo
from PIL import Image

from data.codecs.targets import decode_target
from data.sources.annotated import read_annotated
from data.sources.annotated.coco import read_coco
from data.sources.annotated.voc import read_voc
from data.sources.annotated.yolo import read_yolo
from data.sources.find import find_source
from swinmim.errors import DataError


def decoded(source):
    """Name -> [(class, box)] as a reader of the packed set gets it."""
    found = {}
    for n, item in enumerate(source.items):
        target = decode_target("boxes", source.load_target(n), len(source.classes))
        found[item.name] = [
            (source.classes[label], tuple(box)) for label, box in zip(target.labels, target.boxes.tolist(), strict=True)
        ]
    return found


def coco_beside(root):
    write_photos(root / "train")
    write_json(root / "train.json", coco())
    return root / "train"


def coco_inside(root):
    write_photos(root)
    write_json(root / "_annotations.coco.json", coco())
    write_json(root / "notes.json", {"images": 3})
    return root


def coco_of_a_year(root):
    write_photos(root / "train2017")
    write_json(root / "annotations" / "instances_train2017.json", coco())
    write_json(root / "annotations" / "instances_val2017.json", coco({}))
    return root / "train2017"


def coco_with_images(root):
    write_photos(root / "images")
    write_json(root / "labels.json", coco())
    return root


def voc_apart(root):
    write_photos(root / "JPEGImages")
    write_voc(root / "Annotations")
    return root


def voc_together(root):
    write_photos(root)
    write_voc(root)
    return root


def yolo_split(root):
    write_photos(root / "images" / "train")
    write_yolo(root / "labels" / "train")
    (root / "data.yaml").write_text("names: {0: owl, 1: cat}\n")
    return root / "images" / "train"


def yolo_apart(root):
    write_photos(root / "images")
    write_yolo(root / "labels")
    (root / "classes.txt").write_text("owl\ncat\n")
    return root


def yolo_together(root):
    write_photos(root)
    write_yolo(root)
    (root / "data.yaml").write_text("names: [owl, cat]\n")
    return root


LAYOUTS = [
    coco_beside, coco_inside, coco_of_a_year, coco_with_images, voc_apart, voc_together, yolo_split, yolo_apart,
    yolo_together,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_boxes(tmp_path, layout):
    source = read_annotated(layout(tmp_path), "boxes")
    assert source is not None
    assert source.target == "boxes"
    assert set(source.classes) == {"owl", "cat"}
    found = decoded(source)
    assert list(found) == list(PHOTOS)
    for name, drawn in PHOTOS.items():
        assert [c for c, _ in found[name]] == [c for c, _ in drawn]
        np.testing.assert_allclose([b for _, b in found[name]], [b for _, b in drawn], rtol=1e-6)
    assert read_annotated(source.root, "labels") is None
    assert read_annotated(source.root, "nothing") is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_of_training_number_those_of_validation(tmp_path, layout):
    source = read_annotated(layout(tmp_path), "boxes", ("cat", "emu", "owl"))
    assert source.classes == ("cat", "emu", "owl")
    assert [c for c, _ in decoded(source)["a.jpg"]] == ["owl", "cat"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_class_that_training_lacks_is_named(tmp_path, layout):
    with pytest.raises(DataError, match=r"Every split must have the same classes; .* has cat, which training lacks"):
        read_annotated(layout(tmp_path), "boxes", ("owl",))


def test_folders_without_marks_are_left_to_other_sources(tmp_path):
    write_photos(tmp_path)
    (tmp_path / "a.txt").write_text("an owl on a branch in the evening light")
    (tmp_path / "notes.json").write_text("{")
    assert read_annotated(tmp_path, "boxes") is None
    assert read_annotated(tmp_path, None) is None
    assert find_source(str(tmp_path)).target is None


def test_the_copy_depends_on_every_number(tmp_path):
    before = read_annotated(coco_beside(tmp_path), "boxes").items
    changed = coco()
    changed["annotations"][0]["bbox"][0] += 1
    write_json(tmp_path / "train.json", changed)
    after = read_annotated(tmp_path / "train", "boxes").items
    assert [x.target == y.target for x, y in zip(before, after, strict=True)] == [False, True, True]


def test_an_image_of_another_size_than_its_boxes_were_drawn_in_is_told(tmp_path):
    source = read_coco(coco_beside(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "train" / "a.jpg", exif=exif)
    with pytest.raises(OSError, match=r"its boxes are for 50x40 pixels, it has 40x50 \(turned by EXIF\?\)"):
        source.load_target(0)
    assert source.load_target(1)


def test_shares_are_of_the_upright_image(tmp_path):
    path = yolo_apart(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path / "images" / "b.jpg", exif=exif)
    assert decoded(read_yolo(path))["b.jpg"] == [("cat", (0, 0, 40, 50))]


def test_boxes_are_cut_to_their_image_and_a_few_without_area_are_left_out(tmp_path):
    write_photos(tmp_path / "train")
    drawn = {"a.jpg": [("owl", (-5, 30, 20, 25)), ("owl", (60, 0, 5, 5)), ("cat", (1.5, 2.25, 3.125, 4))]}
    write_json(tmp_path / "train.json", coco(drawn))
    source = read_coco(tmp_path / "train")
    assert decoded(source)["a.jpg"] == [("owl", (0, 30, 15, 10)), ("cat", (1.5, 2.25, 3.125, 4))]
    assert source.notes[0].startswith("2 boxes, ")
    assert source.notes[1] == "1 without area left out: [60, 0, 5, 5] in a.jpg"


def changed(change):
    def write(root):
        path = coco_beside(root)
        content = coco()
        change(content)
        write_json(root / "train.json", content)
        return path

    return write


def no_boxes(content):
    content["annotations"] = []


def no_area(content):
    for row in content["annotations"]:
        row["bbox"][2] = 0


def not_listed(content):
    content["annotations"][1]["category_id"] = 99


def not_there(content):
    content["images"] += [{"id": n, "file_name": f"{n}.jpg", "height": 4, "width": 4} for n in (90, 91)]


def no_image(content):
    content["annotations"][0]["image_id"] = 5


def no_number(content):
    content["annotations"][0]["bbox"] = [1, 2, "3", 4]


def two_corners(content):
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]


def twice(content):
    content["categories"][1]["name"] = "owl"


def elsewhere(content):
    content["images"][0]["file_name"] = "../a.jpg"


def no_size(content):
    del content["images"][0]["height"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_boxes, r"Some image has a box; .*train\.json has none for 3 images\. Mark the objects"),
        (no_area, r"none with an area for 3 images"),
        (not_listed, r"Annotation 1 of .*train\.json has category 99, which is not listed\. Add it to categories"),
        (
            not_there,
            r"train\.json names 2 of 5 images that are not in .*train \(90\.jpg, 91\.jpg\)\. Put them there, or take",
        ),
        (no_image, r"is for image 5, which is not listed"),
        (no_number, r"The bbox of annotation 0 of .* must be 4 finite numbers, got \[1, 2, '3', 4\]"),
        (two_corners, r"has a polygon without x and y of three corners"),
        (twice, r"Every class has a name of its own; .* has owl twice"),
        (elsewhere, r"names \.\./a\.jpg\. Give names relative"),
        (no_size, r"Row 0 of images in .* has no height of the type int"),
    ],
)
def test_what_is_wrong_in_a_coco_file_is_said(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read_coco(changed(change)(tmp_path))


def test_many_boxes_outside_are_refused(tmp_path):
    write_photos(tmp_path / "train")
    outside = [("owl", (100 + n, 3, 5, 5)) for n in range(5)]
    write_json(tmp_path / "train.json", coco({"a.jpg": [*PHOTOS["a.jpg"], *outside]}))
    with pytest.raises(
        DataError, match=r"has 5 of 7 that do not \(\[100, 3, 5, 5\] in a\.jpg, .*, \.\.\.\)\. Mend them"
    ):
        read_coco(tmp_path / "train")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"images": []})])
def test_a_file_that_is_named_as_coco_names_its_own_must_be_one(tmp_path, content):
    write_photos(tmp_path)
    (tmp_path / "_annotations.coco.json").write_text(content)
    with pytest.raises(DataError, match=r"_annotations\.coco\.json"):
        read_coco(tmp_path)


def test_two_coco_files_inside_are_refused(tmp_path):
    path = coco_inside(tmp_path)
    write_json(path / "more.json", coco())
    with pytest.raises(DataError, match=r"One COCO file tells of the images of .*, got _annotations\.coco\.json, more"):
        read_coco(path)


def test_crowds_and_difficult_objects_are_crowds(tmp_path):
    write_photos(tmp_path / "c" / "train")
    write_json(tmp_path / "c" / "train.json", coco(iscrowd=1))
    write_photos(tmp_path / "v")
    write_voc(tmp_path / "v", more="<difficult>1</difficult>")
    for source in (read_coco(tmp_path / "c" / "train"), read_voc(tmp_path / "v")):
        assert decode_target("boxes", source.load_target(0), 2).crowd.tolist() == [True, True]


def test_images_without_xml_are_left_out_and_counted(tmp_path):
    write_photos(tmp_path)
    write_voc(tmp_path, {"a.jpg": PHOTOS["a.jpg"]})
    source = read_voc(tmp_path)
    assert [item.name for item in source.items] == ["a.jpg"]
    assert "2 images without XML left out" in source.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"a\.xml is no XML of Pascal VOC"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "declares entities"),
        ("<annotation><object/></annotation>", r"Every object has a name; .*a\.xml has one without"),
        ("<annotation><object><name>x</name></object></annotation>", r"bndbox/xmin is a number; .*a\.xml has None"),
        ("<annotation/>", r"size/height is a number"),
        ("<annotation><size><height>0</height><width>0</width></size></annotation>", "says that its image has 0x0"),
    ],
)
def test_what_is_wrong_in_an_xml_is_said(tmp_path, text, message):
    write_photos(tmp_path)
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_voc(tmp_path)


def test_an_xml_without_its_image_is_named(tmp_path):
    write_photos(tmp_path, ["a.jpg"])
    write_voc(tmp_path)
    with pytest.raises(DataError, match=r"names 2 of 3 images that are not in .* \(b\.jpg, c\.jpg\)"):
        read_voc(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .1 .2 .3", r"A line of YOLO is a class number and x, y, width, height, or a polygon; .*a\.txt has '0 \.1"),
        ("owl .1 .2 .3 .4", r"a\.txt has 'owl"),
        ("0 .1 .2 .3 nan", r"a\.txt has"),
        ("0 .1 .2 .3 .4 .5", r"a\.txt has"),
        ("2 .1 .2 .3 .4", r"has class 2, and .*classes\.txt names 2 from 0 on"),
    ],
)
def test_what_is_wrong_in_a_line_is_said(tmp_path, text, message):
    path = yolo_apart(tmp_path)
    (path / "labels" / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo(path)


def test_a_text_without_its_image_is_named(tmp_path):
    path = yolo_apart(tmp_path)
    (path / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"labels/a\.txt has no image in .*images"):
        read_yolo(path)


def test_without_names_classes_are_numbers(tmp_path):
    path = yolo_apart(tmp_path)
    (path / "classes.txt").unlink()
    source = read_yolo(path)
    assert source.classes == ("0", "1")
    assert "1 images without a text, and so without objects" in source.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [("names: {1: owl, 2: cat}", "has a name for each number from 0 on"), ("names: [", r"data\.yaml is no YAML")],
)
def test_what_is_wrong_with_names_is_said(tmp_path, text, message):
    path = yolo_together(tmp_path)
    (path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo(path)
