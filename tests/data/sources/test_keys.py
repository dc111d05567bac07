import pytest

from data.shards.archive import Member
from data.sources.keys import by_key
from swinmim.errors import DataError


def grouped(*names, parts=("cls",)):
    members = [Member(name, number, 1) for number, name in enumerate(names)]
    return by_key(members, lambda member: member.name.lower().endswith((".jpg", ".png")), parts, "x.tar")


def test_a_key_ends_at_the_first_dot_of_a_name():
    samples = grouped("a.b/c.JPG", "a.b/c.seg.png", "d/c.png", "a.b/c.CLS", "a.b/c.txt", "readme")
    assert [sample.key for sample in samples] == ["a.b/c", "d/c", "readme"]
    assert [suffix for suffix, _ in samples[0].images] == ["jpg", "seg.png"]
    assert samples[0].parts["cls"].name == "a.b/c.CLS"
    assert [member.name for member in samples[0].others] == ["a.b/c.txt"]
    assert [member.name for member in samples[0].chosen("x.tar")] == ["a.b/c.JPG"]


def test_a_part_is_no_image_of_its_own():
    (sample,) = grouped("a.jpg", "a.mask.png", parts=("mask.png",))
    assert [member.name for member in sample.chosen("x.tar")] == ["a.jpg"]
    assert list(sample.parts) == ["mask.png"]
    (sample,) = grouped("a.mask.png")
    assert [member.name for member in sample.chosen("x.tar")] == ["a.mask.png"]


def test_where_all_names_have_dots_each_image_is_a_sample():
    (sample,) = grouped("a.v1.jpg", "a.v2.jpg")
    assert len(sample.chosen("x.tar")) == 2


def test_what_cannot_be_told_apart_is_refused():
    for names in (("a.jpg", "a.JPG"), ("a.cls", "b.jpg", "a.CLS"), ("a.txt", "a.txt")):
        with pytest.raises(DataError, match=rf"x\.tar holds {names[-1]} twice \(case aside\)"):
            grouped(*names)
    (sample,) = grouped("a.jpg", "a.png")
    with pytest.raises(DataError, match=r"x\.tar: a has 2 images \(jpg, png\); which one is meant\? .*KEY\.other\.png"):
        sample.chosen("x.tar")


def test_no_members():
    assert grouped() == []
