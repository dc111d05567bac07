"""Label masks among images: noticed, since they would be learnt from as pictures."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from data.codecs.png import is_png
from swinmim.outside import Unreadable, one_line, open_regular

_LOOKED_AT = 64  # names that several images share, and images of one name
_COLOUR_TYPE = 25  # place in a PNG
HEAD = _COLOUR_TYPE + 1
"""Bytes that tell a mask."""
_GREY, _PALETTE = 0, 3


def label_masks(root: Path, names: Sequence[str]) -> str | None:
    """A warning where most images of a folder that share their name are a picture and its mask, see `masks_among`.

    Args:
        root: of the folder.
        names: of its images, as paths from there.
    """
    found = masks_among(names, lambda name: read_head(root / name))
    if found is None:
        return None
    told, folder = found
    where = "take them out" if folder is None else f"give the folder of the pictures alone ({root / folder})"
    return f"{told}; {where}"


def read_head(path: Path) -> bytes:
    """The first bytes of a file, as `masks_among` wants them; none of one that cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD)
    except (OSError, Unreadable):
        return b""


def masks_among(names: Sequence[str], head: Callable[[str], bytes]) -> tuple[str, str | None] | None:
    """A warning where most images that share their name but for folder and ending are a picture and its mask.

    A mask is a PNG with a palette, or a grey one where these have folders of their own.

    Args:
        names: of images, as paths.
        head: the first `HEAD` bytes of one.

    Returns:
        the warning, and the folder of the pictures where it holds no masks.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[PurePosixPath(name).stem].append(name)
    shared = [group for group in alike.values() if len(group) > 1 and any(map(_is_png, group))]
    looked_at = shared[:: max(1, len(shared) // _LOOKED_AT)]
    pairs = []
    for group in looked_at:
        kinds = {
            name: _colour_type(head(name)) if _is_png(name) else None
            for name in group[:: max(1, len(group) // _LOOKED_AT)]
        }
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
    told = f"warning: {mask} seems to be a label mask of {picture}, and so for {len(shared):,} names"
    return one_line(told), _folder(picture) if apart else None


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _colour_type(head: bytes) -> int | None:
    """Of a PNG of up to 8 bits; None for any other file."""
    return head[_COLOUR_TYPE] if is_png(head) and len(head) > _COLOUR_TYPE and head[_COLOUR_TYPE - 1] <= 8 else None
