"""Label masks among the images of a folder: noticed, since they would be learnt from as pictures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data.codecs.png import is_png
from swinmim.outside import Unreadable, open_regular

_LOOKED_AT = 64  # names that several images share, and images of one name
_COLOUR_TYPE = 25  # place in a PNG
_GREY, _PALETTE = 0, 3


def label_masks(root: Path, names: Sequence[str]) -> str | None:
    """A warning where most images that share their name but for folder and ending are a picture and its mask.

    A mask is a PNG with a palette, or a grey one where these have folders of their own.

    Args:
        root: of the folder.
        names: of its images, as paths from there.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[PurePosixPath(name).stem].append(name)
    shared = [group for group in alike.values() if len(group) > 1 and any(map(_is_png, group))]
    looked_at = shared[:: max(1, len(shared) // _LOOKED_AT)]
    pairs = []
    for group in looked_at:
        kinds = {name: _colour_type(root / name) for name in group[:: max(1, len(group) // _LOOKED_AT)]}
        of_masks = _PALETTE if _PALETTE in kinds.values() else _GREY
        masks = [name for name, kind in kinds.items() if kind == of_masks]
        pictures = [name for name, kind in kinds.items() if kind != of_masks]
        if masks and pictures:
            pairs.append((pictures[0], masks[0], kinds[masks[0]]))
    grey = any(kind == _GREY for _, _, kind in pairs)
    apart = {_folder(mask) for _, mask, _ in pairs}.isdisjoint(_folder(picture) for picture, _, _ in pairs)
    if 2 * len(pairs) <= len(looked_at) or (grey and not apart):
        return None
    picture, mask, _ = pairs[0]
    where = f"; give the folder of the pictures alone ({root / _folder(picture)})" if apart else "; take them out"
    return f"warning: {mask} seems to be a label mask of {picture}, and so for {len(shared):,} names{where}"


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _colour_type(path: Path) -> int | None:
    """Of a PNG of up to 8 bits; None for any other file."""
    if not _is_png(path.name):
        return None
    try:
        with open_regular(path) as file:
            head = file.read(_COLOUR_TYPE + 1)
    except (OSError, Unreadable):
        return None
    return head[_COLOUR_TYPE] if is_png(head) and len(head) > _COLOUR_TYPE and head[_COLOUR_TYPE - 1] <= 8 else None
