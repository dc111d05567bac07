import gc
import io
import pickle
import shutil
import subprocess
import tarfile

import pytest
import webdataset
from made_images import image_bytes, make_pixels

from data.codecs.decode import decode
from data.shards.local import ShardSet
from data.write.__main__ import main
from data.write.index import index_tars
from swinmim.errors import DataError


def jpeg(number):
    return image_bytes(make_pixels(number, 24, 30))


def make_tar(path, files, **options):
    with tarfile.open(path, "w", **options) as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path.read_bytes()


PAIR = [("a.jpg", jpeg(0)), ("a.cls", b"1"), ("b.jpg", jpeg(1)), ("b.cls", b"0")]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_webdataset_wrote_is_indexed_and_read(tmp_path, capsys):
    with webdataset.ShardWriter(str(tmp_path / "set-%03d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write({"__key__": f"sample{number}", "jpg": jpeg(number), "cls": number % 3, "json": {"n": number}})
    gc.collect()
    assert main(["index", str(tmp_path)]) == 0
    assert "indexed 10 samples" in capsys.readouterr().out
    shards = ShardSet.open(tmp_path)
    assert shards.shard_sizes == (4, 4, 2)
    assert shards.classes == ("0", "1", "2")
    for number in range(10):
        record = shards.read(number)
        assert (record.key, record.data, record.label) == (f"sample{number}", jpeg(number), number % 3)
    assert all(0 < value < 1 for value in (*shards.mean, *shards.std))


def test_the_layout_of_img2dataset(tmp_path):
    files = [
        (f"{n:09d}.{ext}", data) for n in range(3) for ext, data in (("jpg", jpeg(n)), ("txt", b"x"), ("json", b"{}"))
    ]
    make_tar(tmp_path / "00000.tar", files)
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "00000.parquet").write_bytes(b"")
    report = index_tars(tmp_path)
    assert report.samples == 3
    assert report.ignored["members that are no image"] == 6
    assert ShardSet.open(tmp_path).classes == ()


def test_parts_of_a_sample_may_lie_apart(tmp_path):
    make_tar(tmp_path / "x.tar", [PAIR[0], PAIR[2], PAIR[3], PAIR[1]])
    index_tars(tmp_path, classes=["no", "yes"])
    shards = ShardSet.open(tmp_path)
    assert [(shards.read(n).key, shards.read(n).label) for n in range(2)] == [("a", 1), ("b", 0)]
    assert shards.classes == ("no", "yes")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_tar_format(tmp_path, form):
    name = "d" * 90 + "/é" + "k" * (5 if form == tarfile.USTAR_FORMAT else 150) + ".jpg"
    make_tar(tmp_path / "x.tar", [(name, jpeg(0)), ("b.jpg", jpeg(1))], format=form)
    index_tars(tmp_path)
    shards = ShardSet.open(tmp_path)
    assert [shards.read(n).data for n in range(2)] == [jpeg(0), jpeg(1)]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_tars_of_every_make_are_read(tmp_path, form):
    """GNU tar's own; v7 headers have no magic, and names beyond 100 bytes put a second header before the real one."""
    names = ["a.jpg", "sub.dir/b.jpg"] + (["d" * 120 + ".jpg"] if form not in ("v7", "ustar") else [])
    (tmp_path / "in" / "sub.dir").mkdir(parents=True)
    for number, name in enumerate(names):
        (tmp_path / "in" / name).write_bytes(jpeg(number))
    files = [f"./{name}" for name in names]
    subprocess.run(["tar", "cf", "x.tar", f"--format={form}", "-C", "in", *files], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / "in")
    index_tars(tmp_path)
    records = [ShardSet.open(tmp_path).read(number) for number in range(len(names))]
    assert [record.data for record in records] == [jpeg(number) for number in range(len(names))]
    assert [record.key for record in records][:2] == ["./a", "./sub.dir/b"]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_refused(tmp_path, form):
    with (tmp_path / "a.npy").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    subprocess.run(["tar", "cSf", "x.tar", f"--format={form}", "a.npy"], cwd=tmp_path, check=True)
    with pytest.raises(DataError, match=r"x\.tar holds a\.npy as a sparse file.*without -S"):
        index_tars(tmp_path)


def test_what_macos_adds_is_left_out_and_counted(tmp_path):
    hidden = [
        ("./._a.jpg", b"\0\5\26\7"),
        ("__MACOSX/._c.jpg", b"x"),
        ("__MACOSX/d.jpg", b"x"),
        (".thumbs/a.jpg", b"x"),
    ]
    make_tar(tmp_path / "x.tar", [hidden[0], ("./a.jpg", jpeg(0)), *hidden[1:], ("./b.jpg", jpeg(1))])
    report = index_tars(tmp_path)
    assert (report.samples, report.ignored["hidden members"]) == (2, 4)
    assert [ShardSet.open(tmp_path).read(n).key for n in range(2)] == ["./a", "./b"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.jpg", jpeg(0)), ("a.jpg", jpeg(1))], "a.jpg twice"),
        ([("a.jpg", jpeg(0)), ("b.jpg", jpeg(1)), ("a.jpg", jpeg(2))], "a.jpg twice"),
        ([("0.JPG", jpeg(0)), ("0.jpg", jpeg(1))], "0.jpg twice .case aside"),
        ([("a.jpg", jpeg(0)), ("a.png", jpeg(1))], "2 images .jpg, png."),
        ([("a.jpg", jpeg(0)), ("a.npy", b"x")], r"jpg, npy.*KEY\.other\.npy.*take them out"),
        ([("a.jpg", jpeg(0)), ("a.cls", b"2000000000")], "counted from 0, got 2000000000 among 1 samples.*--classes"),
        ([("../../x.jpg", jpeg(0))], "leads out"),
        ([("/abs.jpg", jpeg(0))], "leads out"),
        ([("a.jpg", jpeg(0)), ("a.cls", b"cat")], "class number"),
        ([("a.jpg", jpeg(0)), ("a.cls", b"-1")], "class number"),
        ([("a.txt", b"x")], "hold no image"),
        ([("a.jpg", b"x")], "None of 1 images"),
        ([], "hold no image"),
    ],
)
def test_tars_that_are_refused(tmp_path, files, message):
    make_tar(tmp_path / "x.tar", files)
    with pytest.raises(DataError, match=message):
        index_tars(tmp_path)


def test_damaged_tars_are_refused_by_name(tmp_path):
    whole = make_tar(tmp_path / "x.tar", PAIR)
    second = whole.index(b"b.jpg")
    damaged = bytearray(whole)
    damaged[second + 150] ^= 1  # the header's checksum
    cases = [
        (whole[: second + 700], "cut inside|no whole"),
        (whole[:second], "cut between two members"),
        (bytes(damaged), "damaged header at byte"),
        (b"", "0 bytes"),
        (b"<html></html>" * 100, "no whole, uncompressed tar"),
        (bytes(511), "no whole, uncompressed tar"),
        (whole + whole, "goes on after its end mark at byte .*joined"),
        (whole + bytes(10240) + b"x", "goes on after its end mark"),
        (whole + bytes(5 << 20), "bytes after its last member"),
        (bytes(5 << 20), "bytes after its last member"),
    ]
    for data, message in cases:
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(DataError, match=message) as error:
            index_tars(tmp_path)
        assert "x.tar" in str(error.value)
    assert not (tmp_path / "manifest.json").exists()


def test_names_with_dots_are_kept_apart_and_warned_of(tmp_path):
    make_tar(
        tmp_path / "x.tar", [("img.v1.jpg", jpeg(0)), ("img.v2.jpg", jpeg(1)), ("a.jpg", jpeg(2)), ("a.seg.png", b"x")]
    )
    report = index_tars(tmp_path)
    assert report.samples == 3
    assert "webdataset reads as one sample of 2" in report.warnings[0]
    assert report.ignored["further images of a sample"] == 1


def test_links_are_left_out_and_counted(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as out:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg(0))
        out.addfile(info, io.BytesIO(jpeg(0)))
        for kind, name in ((tarfile.SYMTYPE, "b.jpg"), (tarfile.LNKTYPE, "c.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            out.addfile(link)
    report = index_tars(tmp_path)
    assert (report.samples, report.ignored["links and special files"]) == (1, 2)


def test_an_empty_shard_beside_others_is_allowed(tmp_path):
    make_tar(tmp_path / "a.tar", [])
    make_tar(tmp_path / "b.tar", PAIR)
    (tmp_path / "c.tar").write_bytes(bytes(1 << 20))  # an empty tar with records of 1 MB, GNU tar's largest
    assert index_tars(tmp_path).samples == 2
    assert ShardSet.open(tmp_path).shard_sizes == (0, 2, 0)


class Canary:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_never_loaded(tmp_path):
    bomb = pickle.dumps(Canary())
    make_tar(
        tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.pyd", bomb), ("a.pth", bomb), ("b.pkl", bomb), ("c.npy", bomb)]
    )
    report = index_tars(tmp_path)
    assert report.ignored["members that are no image"] == 3
    with pytest.raises(ValueError, match=r"shape|not an image|magic"):
        decode(ShardSet.open(tmp_path).read(1).data)


def test_wrong_calls(tmp_path):
    with pytest.raises(DataError, match=r"no \.tar files"):
        index_tars(tmp_path)
    make_tar(tmp_path / "x.tar", PAIR)
    with pytest.raises(DataError, match="go up to 1, and 1 class"):
        index_tars(tmp_path, classes=["one"])
    with pytest.raises(DataError, match="must differ and not be blank, got 'a'"):
        index_tars(tmp_path, classes=["a", "a"])
    (tmp_path / "x.tar").rename(tmp_path / "x\n.tar")
    with pytest.raises(DataError, match=r"short and printable, got 'x\\n\.tar'. Rename"):
        index_tars(tmp_path)
    (tmp_path / "x\n.tar").rename(tmp_path / "x.tar")
    index_tars(tmp_path)
    with pytest.raises(DataError, match="channels must be at least 1, got 0"):
        index_tars(tmp_path, channels=0)
    with pytest.raises(DataError, match="already a shard set"):
        index_tars(tmp_path)


@pytest.mark.parametrize("text", ["no\nyes\n", "no\nyes", "no\r\nyes\r\n"])
def test_a_file_of_class_names(tmp_path, text):
    make_tar(tmp_path / "x.tar", PAIR)
    (tmp_path / "names").write_bytes(text.encode())
    assert main(["index", str(tmp_path), "--classes", str(tmp_path / "names")]) == 0
    assert ShardSet.open(tmp_path).classes == ("no", "yes")


@pytest.mark.parametrize("text", ["no\n\nyes\n", "\nno\nyes\n", "no\nyes\n\n", "no\n \nyes\n", ""])
def test_blank_class_names_do_not_shift_the_labels(tmp_path, text, capsys):
    make_tar(tmp_path / "x.tar", PAIR)
    (tmp_path / "names").write_text(text)
    assert main(["index", str(tmp_path), "--classes", str(tmp_path / "names")]) == 3
    assert "not be blank" in capsys.readouterr().err
