"""Images whose targets lie in files of their own: who reads which kind, found by looking.

pairs         images and label masks, in folders or a list
coco          COCO files               voc           Pascal VOC's XML           yolo          YOLO's text
boxes         what these share         outlines      polygons and runs -> masks

A reader gets a directory, and the classes that its set must have or None for those that are found; it returns None
where what it knows does not lie there, and raises DataError where that is there and wrong. A reader of masks is told
too which value in them is ignored.
"""

from collections.abc import Callable
from pathlib import Path

from data.codecs.targets import IGNORED, Needs, TargetKind
from data.sources.annotated.coco import read_coco
from data.sources.annotated.pairs import read_pairs
from data.sources.annotated.voc import read_voc
from data.sources.annotated.yolo import read_yolo
from data.sources.source import FileSource

Reader = Callable[..., FileSource | None]

READERS: dict[TargetKind, tuple[Reader, ...]] = {
    "mask": (read_pairs,),
    "boxes": (read_coco, read_voc, read_yolo),
}

LAYOUTS: dict[TargetKind, str] = {
    "mask": "masks (DIR/train/masks beside DIR/train/images, PNGs of the same names, and so for val), or a list with"
    " columns path and mask",
    "boxes": "a COCO file (DIR/train.json beside DIR/train, or inside it), Pascal VOC's XML (Annotations beside"
    " JPEGImages) or YOLO's text (labels beside images)",
}
"""Where the readers look, in words for who has nothing there."""


def read_annotated(
    path: Path, needs: Needs | None, classes: tuple[str, ...] | None = None, ignore_index: int = IGNORED
) -> FileSource | None:
    """The images at `path` with the targets that `needs` names, or any for None; None where there are none such.

    ignore_index: value in mask files of pixels without a class.
    """
    wanted = READERS if needs is None else READERS.keys() & {needs}
    for kind in READERS:
        told = {"ignore_index": ignore_index} if kind == "mask" else {}
        for read in READERS[kind] if kind in wanted else ():
            if (source := read(path, classes, **told)) is not None:
                return source
    return None
