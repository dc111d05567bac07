"""Label masks among images."""

import shutil
import tarfile

import numpy as np
import pytest
from made_images import make_folder
from PIL import Image

from data.sources.folder import read_folder
from data.sources.listing import read_list
from data.sources.masks import label_masks
from data.sources.tars import read_tars


def names(root):
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


def with_masks(root, folder, mode="P", count=6):
    """Pictures, and a mask of each in `folder`."""
    pictures = make_folder(root / "pictures", count, classes=())
    (root / folder).mkdir(exist_ok=True)
    for file in sorted(pictures.glob("*.jpg")):
        Image.fromarray(np.eye(48, 64, dtype=np.uint8)).convert(mode).save(root / folder / f"{file.stem}.png")
    return root


@pytest.mark.parametrize(
    ("folder", "mode", "said"),
    [
        ("masks", "P", "give the folder of the pictures alone"),
        ("masks", "L", "give the folder of the pictures alone"),
        ("pictures", "P", "take them out"),
        ("pictures", "L", None),  # grey pictures of the same names may be anything
        ("masks", "RGB", None),
    ],
)
def test_a_picture_and_a_mask_of_the_same_name(folder, mode, said, tmp_path):
    source = read_folder(with_masks(tmp_path, folder, mode))
    assert len(source.items) == 12
    noted = "; ".join(source.notes)
    if said is None:
        assert "mask" not in noted
    else:
        assert f"{folder}/0000.png seems to be a label mask of pictures/0000.jpg, and so for 6 names" in noted
        assert said in noted
        assert source.classes == ()  # pictures and masks are no classes
    if said and folder == "masks":
        assert f"({tmp_path / 'pictures'})" in noted


def test_equal_names_alone_are_no_masks(tmp_path):
    for name in ("cat", "dog"):
        make_folder(tmp_path / name, 4, classes=())
    assert label_masks(tmp_path, names(tmp_path)) is None
    for name in ("cat", "dog"):  # drawings with a palette in both classes
        shutil.rmtree(tmp_path / name)
        with_masks(tmp_path, name)
        shutil.rmtree(tmp_path / "pictures")
    assert label_masks(tmp_path, names(tmp_path)) is None
    assert label_masks(tmp_path, []) is None


def test_most_must_be_masks(tmp_path):
    root = with_masks(tmp_path, "masks", count=3)
    for number in range(3, 8):
        for folder in ("pictures", "masks"):
            Image.new("RGB", (16, 16)).save(root / folder / f"{number}.png")
    assert label_masks(root, names(root)) is None


def test_damaged_and_deep_pngs_are_no_masks(tmp_path):
    root = with_masks(tmp_path, "masks", count=2)
    (root / "masks" / "0000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "masks" / "0001.png")  # a depth map
    assert label_masks(root, names(root)) is None


def test_masks_in_a_list_and_in_a_tar(tmp_path):
    root = with_masks(tmp_path, "masks")
    rows = names(root)
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(rows))
    said = "".join(read_list(tmp_path / "list.csv").notes)
    assert "a label mask of pictures/0000.jpg, and so for 6 names; take their rows out" in said
    with tarfile.open(tmp_path / "both.tar", "w") as out:
        for name in rows:
            out.add(root / name, name)
    source = read_tars([tmp_path / "both.tar"])
    assert "masks/0000.png seems to be a label mask of both.tar/pictures/0000.jpg" in "".join(source.notes)
    assert source.classes == ()


def test_a_column_of_pictures_is_said_not_to_be_read(tmp_path):
    with_masks(tmp_path, "masks")
    rows = "".join(f"pictures/{n:04d}.jpg,masks/{n:04d}.png,x.png\n" for n in range(6))
    (tmp_path / "list.csv").write_text("path,outline,other\n" + rows)
    source = read_list(tmp_path / "list.csv")
    assert len(source.items) == 6
    assert "warning: the column outline of list.csv names images, which are not read" in source.notes
    assert "other" not in "".join(source.notes)
