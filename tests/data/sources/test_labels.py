import pytest

from data.sources.labels import label_targets, label_text, label_texts, number_labels
from swinmim.errors import DataError


@pytest.mark.parametrize(
    ("texts", "classes", "labels"),
    [
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        (["3", "1"], ("0", "1", "2", "3"), [3, 1]),
        (["00", "01", "10", "1"], tuple(map(str, range(11))), [0, 1, 10, 1]),
        (["0" * 20 + "1", "0"], ("0", "1"), [1, 0]),
        (["10.0", "2."], tuple(map(str, range(11))), [10, 2]),
        (["²", "٣", "1"], ("1", "²", "٣"), [1, 2, 0]),
        (["1", "cat", "10"], ("1", "10", "cat"), [0, 2, 1]),
        (["0.5", "1"], ("0.5", "1"), [0, 1]),
        ([None, None], (), [-1, -1]),
        ([], (), []),
    ],
)
def test_classes_and_numbers(texts, classes, labels):
    assert number_labels(texts, "x") == (classes, labels)


def test_numbers_of_known_names():
    assert number_labels(["1", "0", None], "x", ["cat", "dog", "emu"], gaps=True) == (("cat", "dog", "emu"), [1, 0, -1])
    with pytest.raises(DataError, match="x has 3: it knows 3 class names"):
        number_labels(["1", "3"], "x", ["cat", "dog", "emu"])


@pytest.mark.parametrize("text", ["20240115123", "1021", "9" * 5000, "-1", "-0"])
def test_numbers_that_are_no_labels(text):
    with pytest.raises(DataError, match=rf"must count from 0, list.csv has {text[:40]}: give names or renumber"):
        number_labels(["0", text], "list.csv")
    assert len(number_labels(["0", "1020"], "list.csv")[0]) == 1021


def test_some_labels_are_missing():
    with pytest.raises(DataError, match=r"a label or none; x has 1 for 2\. Complete or drop"):
        number_labels(["0", None], "x")
    assert number_labels(["cat", None], "x", gaps=True) == (("cat",), [0, -1])


def test_texts():
    values = ["a", " b ", "", "  ", None, float("nan"), 3, 2.0, True]
    assert [label_text(value) for value in values] == ["a", "b", None, None, None, None, "3", "2.0", "True"]
    with pytest.raises(DataError, match=r"text or a number, got \[1, 2\]"):
        label_text([1, 2])


def test_several_labels_of_an_image():
    values = ["a| b |a", "|", "", None, 3, ["b", "a", None, "b"], [], (1, 2.0)]
    found = [["a", "b"], [], [], [], ["3"], ["b", "a"], [], ["1", "2.0"]]
    assert [label_texts(value) for value in values] == found
    for value in ({"a": 1}, [["a"]]):
        with pytest.raises(DataError, match="text or a number"):
            label_texts(value)


@pytest.mark.parametrize(
    ("texts", "names", "classes", "targets", "said"),
    [
        ([["dog", "cat"], []], (), ("cat", "dog"), ["[0,1]", "[]"], "1.00 labels an image"),
        ([["1", "01", "2"]], (), ("0", "1", "2"), ["[1,2]"], "2.00 labels an image"),
        ([["1"], ["0"]], ("cat", "dog", "emu"), ("cat", "dog", "emu"), ["[1]", "[0]"], "1.00 labels an image"),
        ([["1", "cat"]], (), ("1", "cat"), ["[0,1]"], "2.00 labels an image"),
    ],
)
def test_targets_of_several_labels(texts, names, classes, targets, said):
    assert label_targets(texts, "x", names) == (classes, targets, said)


def test_several_labels_that_cannot_be_used():
    with pytest.raises(DataError, match="Some image has a label; x is empty everywhere"):
        label_targets([[], []], "x")
    with pytest.raises(DataError, match="x has 3: it knows 3 class names"):
        label_targets([["0", "3"]], "x", ("cat", "dog", "emu"))
