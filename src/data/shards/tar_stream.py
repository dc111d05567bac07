"""Samples of WebDataset tars without an index, read from front to back, here or on a server.

webdataset's own stages read tars and group members; the files are opened here, so that no `pipe:` ever runs.
"""

import itertools
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.codecs.formats import SUFFIX_NUMBERS
from data.shards.archive import BLOCK
from data.shards.remote import FIRST_PAUSE, TRIES, Failed, check_url, failures, is_url, open_url, tries
from swinmim.errors import DataError


class Sample(NamedTuple):
    """An image file; its name is "url key", its label -1 where there is none."""

    name: str
    data: bytes
    label: int


class BadShard(Exception):
    """A tar that cannot be read to its end; says which and why."""


def find_shards(path: str, *, allow_insecure: bool = False) -> list[str]:
    """The tars of a directory, or the files or URLs that a pattern with {000..123} means.

    Raises:
        DataError: none, files that are missing, or a refused scheme.
    """
    if Path(path).is_dir():
        found = sorted(str(file) for file in Path(path).glob("*.tar"))
    else:
        found = [path] if "::" in path else list(expand_urls(path))
    missing = []
    for tar in found:
        if is_url(tar):
            check_url(tar, allow_insecure=allow_insecure)
        elif not Path(tar).is_file():
            missing.append(tar)
    if not found or len(missing) == len(found):
        raise DataError(f"data.streaming_samples reads WebDataset tars; {path} holds or means none.")
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise DataError(f"All tars of {path} must be there; {len(missing)} of {len(found)} are not: {shown}.")
    return found


def _label(text: bytes) -> int:
    number = int(text) if text.strip().isdigit() and len(text) < 20 else -1
    return number if number < 2**31 else -1


def _caught() -> tuple[type[Exception], ...]:
    return (*failures(), tarfile.TarError)


class _Watched:
    """A file that remembers whether it looks like a plain tar, and the last block that was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.last = file, b""
        self.plain: bool | None = None

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if self.plain is None:
            self.plain = data[257:262] == b"ustar"
        self.last = (self.last + data if len(data) < BLOCK else data)[-BLOCK:]
        return data


class ForeignTars:
    """Reads tars one at a time.

    Args:
        allow_insecure: accept http.
        first_pause: seconds before the second try of a tar on a server; doubles with each.
    """

    def __init__(self, *, allow_insecure: bool = False, first_pause: float = FIRST_PAUSE) -> None:
        self.allow_insecure, self.first_pause = allow_insecure, first_pause
        self._bad: set[str] = set()

    def _read(self, url: str) -> Generator[Sample, None, None]:
        with open_url(url, allow_insecure=self.allow_insecure) if is_url(url) else open(url, "rb") as file:
            watched = _Watched(file)
            opened: Any = iter([{"url": url, "stream": watched}])
            for sample in group_by_keys(tar_file_expander(opened)):
                field = next((name for name in SUFFIX_NUMBERS if name in sample), None)
                if field is not None:
                    yield Sample(f"{url} {sample['__key__']}", sample[field], _label(sample.get("cls", b"")))
            # tarfile stops without a word at a damaged header and at the end of a file that was cut between two members
            if watched.plain and any(watched.last):
                raise EOFError("no tar's end mark at its end: it was cut between two members, or a header is damaged")

    def samples(self, url: str, *, patient: bool = True) -> Iterator[Sample]:
        """The images of one tar. One on a server is read again for a while, from where it broke off; one that was bad
        before is tried once.

        Args:
            url: or path.
            patient: try again also when there is no such file or no permission.

        Raises:
            BadShard: it cannot be read to its end.
        """
        taken, met = 0, list[Failed]()
        count = TRIES if is_url(url) and url not in self._bad else 1
        for _ in tries(url, met, self.first_pause, patient=patient, count=count):
            try:
                with closing(self._read(url)) as found:
                    for sample in itertools.islice(found, taken, None):
                        taken += 1
                        yield sample
                self._bad.discard(url)
                return
            except _caught() as error:
                met.append(Failed.of(error))
        self._bad.add(url)
        raise BadShard(f"{url}: {met[-1]}")
