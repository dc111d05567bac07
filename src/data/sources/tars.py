"""Images that lie in tars: ImageNet's (a tar a class, or tars in a tar), a packed folder, or WebDataset shards."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.codecs.formats import is_image_head
from data.codecs.targets import MEMBERS, TargetKind
from data.shards.archive import Member, members
from data.shards.manifest import Manifest, read_manifest
from data.sources import masks
from data.sources.keys import Keyed, by_key
from data.sources.labels import number_labels
from data.sources.source import NO_EXTENSION, Item, Source, is_hidden, not_an_image, read_bounded
from data.sources.tar_targets import class_names, read_target, shared_kind
from swinmim.errors import DataError
from swinmim.outside import Unreadable, one_line, open_regular


class _Found(NamedTuple):
    name: str
    tar: int
    member: Member
    label: str | None
    target: Member | None = None


_Place = tuple[int, int, int]
_PARTS = tuple(f".{part}" for part in MEMBERS.values())


@dataclass(frozen=True, kw_only=True)
class TarSource(Source):
    """Images at known places of uncompressed tars; each is read on its own.

    places, targets: (number of the tar, first byte, bytes) of each item, and of its target where it has one.
    """

    tars: Sequence[Path]
    places: Sequence[_Place]
    targets: Sequence[_Place]

    def load(self, position: int) -> bytes:
        return self._read(*self.places[position])

    def load_target(self, position: int) -> bytes:
        return self._read(*self.targets[position])

    def _read(self, tar: int, offset: int, size: int) -> bytes:
        with self.tars[tar].open("rb") as file:
            return read_bounded(file, size, offset)


def _inside(file: BinaryIO, name: str) -> Iterator[tuple[str | None, Member | None]]:
    """Members, None for a link, with the name of the tar in the tar that holds them, None at the top.

    What no listing shows is left out, as in folders.
    """
    for member in list(members(file, name)):
        if member is not None and is_hidden(member.name):
            continue
        if member is not None and member.name.endswith(".tar"):
            for deep in members(file, f"{name}/{member.name}", member.offset, member.size):
                if deep is None or not is_hidden(deep.name):
                    yield Path(member.name).stem, deep
        else:
            yield None, member


class _Tar(NamedTuple):
    number: int
    path: Path
    members: list[tuple[str | None, Member]]

    def shown(self, inner: str | None, member: Member) -> str:
        return f"{self.path.name}/{f'{inner}/' if inner else ''}{member.name}"


def _by_place(tar: _Tar, skipped: list[tuple[str, str]]) -> list[_Found]:
    """Images with the inner tar, the tar, or the folder that they lie in as label."""
    names = [(inner, member.name) for inner, member in tar.members]
    if len(set(names)) != len(names):
        twice = next(name for (_, name), count in Counter(names).items() if count > 1)
        raise DataError(f"{tar.path} holds {one_line(twice)} twice. Remove one of them.")
    own = bool(names) and all(Path(name).name.startswith(tar.path.stem + "_") for _, name in names)
    found = []
    with tar.path.open("rb") as file:
        for inner, member in tar.members:
            reason = not_an_image(member.name)
            if reason == NO_EXTENSION and is_image_head(_head(file, member)):
                reason = None
            if reason is None:
                label = inner or (tar.path.stem if own else Path(member.name).parent.name or None)
                found.append(_Found(tar.shown(inner, member), tar.number, member, label))
            elif not member.name.endswith((".json", ".txt")):
                skipped.append((tar.shown(inner, member), reason))
    return found


def _head(file: BinaryIO, member: Member) -> bytes:
    return os.pread(file.fileno(), min(member.size, masks.HEAD), member.offset)


def _masks(tars: Sequence[_Tar], found: Sequence[_Found]) -> str | None:
    """A warning where the images of folders in tars are pictures and their label masks."""
    members = {entry.name: entry for entry in found}

    def head(name: str) -> bytes:
        with tars[members[name].tar].path.open("rb") as file:
            return _head(file, members[name].member)

    told = masks.masks_among(list(members), head)
    return f"{told[0]}; leave them out of the tar" if told else None


def _samples(tar: _Tar, parts: Collection[str]) -> Iterator[tuple[str | None, Keyed]]:
    """What belongs together, with the inner tar that holds it."""
    inners: dict[str | None, list[Member]] = {}
    for inner, member in tar.members:
        inners.setdefault(inner, []).append(member)
    for inner, held in inners.items():
        for sample in by_key(held, lambda member: not_an_image(member.name) is None, parts, str(tar.path)):
            yield inner, sample


def _by_key(tar: _Tar, kind: TargetKind | None, skipped: list[tuple[str, str]]) -> list[_Found]:
    """Images with the target of their sample, or its `.cls` as label."""
    part = MEMBERS[kind] if kind else "cls"
    found = []
    with tar.path.open("rb") as file:
        for inner, sample in _samples(tar, ("cls", part)):
            images, held, label = sample.chosen(str(tar.path)), sample.parts.get(part), None
            for member in (*(member for _, member in sample.images if member not in images), *sample.others):
                reason = not_an_image(member.name) or "a further image of a sample"
                if not member.name.endswith((".json", ".txt")):
                    skipped.append((tar.shown(inner, member), reason))
            if kind is None and held is not None:
                text = os.pread(file.fileno(), min(held.size, 256), held.offset)
                label, held = text.decode(errors="replace").strip() or None, None
            found += [_Found(tar.shown(inner, image), tar.number, image, label, held) for image in images]
    return found


def _targets(
    tars: Sequence[_Tar], found: Sequence[_Found], kind: TargetKind, manifest: Manifest | None
) -> tuple[str, ...]:
    """Names of what the targets count; they are read for it where no manifest holds them."""
    if bare := next((entry.name for entry in found if entry.target is None), None):
        raise DataError(f"{one_line(bare)} has no {MEMBERS[kind]}. All samples have one, or none has.")
    if manifest:
        return manifest.classes
    held: dict[int, list[Member]] = {tar.number: [] for tar in tars}
    for entry in found:
        if entry.target is not None:
            held[entry.tar].append(entry.target)
    counts = set()
    for tar in tars:
        with tar.path.open("rb") as file:
            counts |= {read_target(file, target, kind, None, str(tar.path)) for target in held[tar.number]}
    return class_names(counts, None, len(found), kind)


def _manifest(paths: Sequence[Path]) -> Manifest | None:
    """The manifest beside these tars, when it is theirs."""
    try:
        _, manifest = read_manifest(paths[0].parent)
    except DataError:
        return None
    return manifest if {path.name for path in paths} <= {shard.name for shard in manifest.shards} else None


def read_tars(paths: Sequence[Path]) -> TarSource:
    """List the images of tars.

    Where any sample has a `.cls` (WebDataset), these are the labels, and the manifest beside them knows their names;
    samples without one have none. Otherwise a label is the tar in a tar that an image lies in, or its tar where all
    names begin with the tar's (ImageNet), or its folder, when all images lie in one of at least two.

    Raises:
        DataError: a damaged tar, the same name twice in a tar, labels that cannot be used, or no images.
    """
    tars: list[_Tar] = []
    times: list[int] = []
    skipped: list[tuple[str, str]] = []
    for number, path in enumerate(paths):
        try:
            file = open_regular(path)
        except OSError as error:
            raise DataError(f"{path} cannot be opened ({error.strerror}).") from error
        except Unreadable as error:
            raise DataError(f"{path} {error}. Take it out.") from error
        with file:
            times.append(os.fstat(file.fileno()).st_mtime_ns)
            listed = list(_inside(file, str(path)))
        tars.append(_Tar(number, path, [(inner, member) for inner, member in listed if member is not None]))
        if links := len(listed) - len(tars[-1].members):
            skipped.append((path.name, f"{links} links or special files"))
    manifest = _manifest(paths)
    where = str(paths[0].parent)
    notes: list[str] = []
    kind = manifest.target if manifest else None
    if manifest is None and any(member.name.lower().endswith(_PARTS) for tar in tars for _, member in tar.members):
        kind, odd = shared_kind(((s for _, s in _samples(tar, MEMBERS.values())) for tar in tars), where)
        notes += [f"warning: {line}" for line in odd]
    keyed = kind is not None or any(member.name.lower().endswith(".cls") for tar in tars for _, member in tar.members)
    found = sorted(
        entry for tar in tars for entry in (_by_key(tar, kind, skipped) if keyed else _by_place(tar, skipped))
    )
    if not found:
        raise DataError(f"No images found in {', '.join(str(path) for path in paths[:3])}.")
    texts = [entry.label for entry in found]
    classes: tuple[str, ...] = ()
    labels = [-1] * len(found)
    if kind is not None:
        classes = _targets(tars, found, kind, manifest)
    elif keyed:
        classes, labels = number_labels(texts, where, manifest.classes if manifest else (), gaps=True)
        if bare := texts.count(None):
            notes.append(f"warning: {bare:,} of {len(texts):,} samples have no .cls")
    elif of_masks := _masks(tars, found):
        notes.append(of_masks)
    elif None not in texts and len(set(texts)) > 1:
        classes = tuple(sorted({text for text in texts if text is not None}))
        number_of = {name: n for n, name in enumerate(classes)}
        labels = [number_of[text] for text in texts if text is not None]
    else:
        stray = next((entry.name for entry in found if entry.label is None), None)
        notes.append("no .cls members, and " + (f"{one_line(stray)} lies in no folder" if stray else "one folder only"))
    held = [entry.target for entry in found if entry.target is not None]
    names = [f"{member.name} {member.size}" for member in held] or [""] * len(found)
    items = [
        Item(entry.name, label, entry.member.size, times[entry.tar], name)
        for entry, label, name in zip(found, labels, names, strict=True)
    ]
    return TarSource(
        items=items,
        classes=classes,
        skipped=tuple(sorted(skipped)),
        notes=tuple(notes),
        target=kind,
        tars=[path.absolute() for path in paths],
        places=[(entry.tar, entry.member.offset, entry.member.size) for entry in found],
        targets=[(entry.tar, member.offset, member.size) for entry, member in zip(found, held, strict=False)],
        stored=manifest,
    )
