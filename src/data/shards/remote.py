"""Files on https, s3, gs and hf, opened with fsspec: which URLs may be read, what a try may meet, when to try again."""

import errno
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from swinmim.errors import DataError
from swinmim.urls import holds_password

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SCHEMES = ("https", "s3", "gs", "hf")
TRIES = 6
_INSTALL = {"gs": "'swinmim[gs]'", "hf": "huggingface_hub"}  # the others need the extra
FIRST_PAUSE = 1.0  # seconds, doubled after every failure
_CHUNK = 16 << 20  # s3 and gs take one request for each
_SILENT_SECONDS = 60  # a server that sends nothing for so long counts as gone


def is_url(path: str) -> bool:
    return "://" in path or path.startswith(("pipe:", *(f"{scheme}:" for scheme in SCHEMES)))


def check_url(url: str, *, allow_insecure: bool = False) -> str:
    """The scheme, in small letters, of a URL that may be read.

    Raises:
        DataError: any other scheme; nothing that runs a program, http only on request; no host, one URL inside
            another; or a password in the URL.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES and not (scheme == "http" and allow_insecure):
        hint = " Add data.allow_insecure=true to read over plain http." if scheme == "http" else ""
        shown = f"a {scheme} URL with a password" if holds_password(url) else url
        raise DataError(f"Remote sets are read over {', '.join(SCHEMES)}; got {shown}.{hint}")
    if holds_password(url):
        raise DataError(
            f"A password or signature in a URL ends up in logs; got one over {scheme}. Write the URL without it, and "
            "put user and password into ~/.netrc, or keys where the cloud's own tools look for them."
        )
    host = url.partition(":")[2].removeprefix("//").partition("/")[0]
    if url[len(scheme) :][:3] != "://" or not host or "::" in url:
        raise DataError(f"A remote set is named as {scheme}://HOST/FOLDER (or {scheme}://BUCKET/FOLDER), got {url!r}.")
    return scheme


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Around work on the cache: its disk is no server, and trying again does not mend it.

    Raises:
        DataError: for any OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache {folder} cannot be used ({error.strerror or error}). Make room there, or set data.cache_dir to"
            " a folder that can be written."
        ) from error


@cache
def _only_https() -> Any:
    """Refuses to follow a redirect to anything but https. One object, since fsspec reuses clients of equal settings."""
    from aiohttp import TraceConfig

    async def refuse(session: Any, context: Any, found: Any) -> None:
        del session, context
        target = str(found.response.headers.get("Location", ""))
        if ":" in target.partition("/")[0] and not target.lower().startswith("https:"):
            raise DataError(
                f"{found.url} sends on to {target.partition('?')[0]}, which is not https. Give the address that it"
                " ends at, or add data.allow_insecure=true."
            )

    trace = TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace


def open_url(url: str, *, allow_insecure: bool = False, options: dict[str, Any] | None = None) -> Any:
    """A file on a server, open for reading from front to back.

    Args:
        url: as it would be typed, with %20 for a space over https.
        allow_insecure, options: see `Remote`.
    """
    import fsspec  # only where something is remote

    scheme, options = check_url(url, allow_insecure=allow_insecure), options or {}
    try:
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            quiet = ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
            # trust_env: passwords from ~/.netrc, and the proxies that the environment names
            client = {"timeout": quiet, "trust_env": True, "trace_configs": [] if allow_insecure else [_only_https()]}
            options = {"client_kwargs": client} | options
        file_system = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        package = _INSTALL.get(scheme, "'swinmim[remote]'")
        raise DataError(f"Reading {scheme}:// needs one more package: pip install {package} ({error}).") from error
    # Streamed where the client can, not in ranges: whole files are wanted, and not every server knows ranges.
    block_size = 0 if scheme in ("http", "https", "hf") else None
    return file_system.open(url, "rb", block_size=block_size, cache_type="none")


class Failed(Exception):
    """One try did not give the file.

    Attributes:
        final: trying again will meet the same: no such file, or no permission.
    """

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        if isinstance(error, FileNotFoundError) and type(error.__cause__).__module__.startswith("aiohttp"):
            error = cast(Exception, error.__cause__)  # fsspec calls so whatever kept it from seeing a file
        # https, hf and gs keep the status in places of their own
        places = ((error, "status"), (getattr(error, "response", None), "status_code"), (error, "code"))
        status = next((getattr(at, name) for at, name in places if hasattr(at, name)), None)
        final = isinstance(error, FileNotFoundError | PermissionError) or type(error).__name__ == "NoCredentialsError"
        told = error.args[0] if error.args and isinstance(error.args[0], str) else error  # webdataset adds objects
        if status is not None and hasattr(error, "message"):
            told = error.message  # without the address, which may have a signature by now
        kind = f"HTTP {status}" if isinstance(status, int) else type(error).__name__
        refused = "connection refused, " if getattr(error, "errno", None) == errno.ECONNREFUSED else ""
        return cls(f"{refused}{kind}: {told}".strip(), final or status in (401, 403, 404))


def tries(
    what: str, met: list[Failed], pause: float = FIRST_PAUSE, *, patient: bool = True, count: int = TRIES
) -> Iterator[None]:
    """Go through this once for each try, and leave it on success.

    Args:
        what: is tried, for warnings.
        met: where each try that fails adds what it met.
        pause: seconds before the second try; doubles with each.
        patient: try again also what is final.
        count: of tries at most.
    """
    for attempt in range(count):
        time.sleep(pause * 2 ** (attempt - 1) if attempt else 0)
        yield
        if met[-1].final and not patient:
            return
        log.warning("try %d of %d: %s: %s", attempt + 1, count, what, met[-1])


class Remote:
    """A directory on a server.

    Args:
        url: of the directory.
        allow_insecure: accept http.
        options: for the fsspec file system (endpoint, keys); the usual environment variables work without.
        pause: seconds before the second try; doubles with each.

    Raises:
        DataError: see `check_url`; or the URL has a query or fragment.
    """

    def __init__(
        self,
        url: str,
        *,
        allow_insecure: bool = False,
        options: dict[str, Any] | None = None,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self.scheme = check_url(url, allow_insecure=allow_insecure)
        if "?" in url or "#" in url:
            raise DataError(f"The URL of a set is that of its folder, without ? and #; got {url}.")
        self.url = self.scheme + url[len(self.scheme) :].rstrip("/")
        self.allow_insecure, self.options, self.pause = allow_insecure, options, pause

    def _chunks(self, name: str) -> Generator[bytes, None, None]:
        """The file in parts; raises `Failed`."""
        # a name is no part of a URL until it is written as one
        url = f"{self.url}/{quote(name) if self.scheme in ('http', 'https') else name}"
        try:
            with open_url(url, allow_insecure=self.allow_insecure, options=self.options) as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
        except failures() as error:
            raise Failed.of(error) from error

    def _tried(self, name: str, once: Callable[[], Result], patient: bool = True) -> Result:
        met: list[Failed] = []
        for _ in tries(f"{self.url}/{name}", met, self.pause, patient=patient):
            try:
                return once()
            except Failed as error:
                met.append(error)
        how_often = f"{len(met)} tries" if len(met) > 1 else "The first try"
        reasons = "\n  ".join(dict.fromkeys(map(str, met)))
        raise DataError(
            f"{self.url}/{name} cannot be read. {how_often} met:\n  {reasons}\n"
            "Check the address, and that this machine may read it: passwords belong into ~/.netrc, keys where the"
            " cloud's own tools look for them."
        )

    def read(self, name: str, limit: int, check: Callable[[bytes], str | None], *, patient: bool = True) -> bytes:
        """A small file, tried again for a while.

        Args:
            name: in the directory.
            limit: bytes that it has at most.
            check: says what is wrong with the content, None for nothing.
            patient: try again also when there is no such file or no permission.

        Raises:
            DataError: it cannot be had; says what each try met.
        """

        def once() -> bytes:
            data = bytearray()
            with closing(self._chunks(name)) as chunks:
                for chunk in chunks:
                    data += chunk
                    if len(data) > limit:
                        raise Failed(f"more than {limit:,} bytes came, which it cannot have")
            if wrong := check(bytes(data)):
                raise Failed(wrong)
            return bytes(data)

        return self._tried(name, once, patient)

    def fetch(self, name: str, dest: Path, size: int, sha256: str) -> None:
        """Download a file to `dest`, and try again for a while when that fails. What is there after an error is no
        use; the caller keeps others away until the end.

        Raises:
            DataError: it cannot be had, or is not `size` bytes with this `sha256`, and says what each try met; or the
                disk cannot take it.
        """

        def once() -> None:
            digest, length = hashlib.sha256(), 0
            with on_disk(dest.parent), dest.open("wb") as file:
                with closing(self._chunks(name)) as chunks:
                    for chunk in chunks:
                        digest.update(chunk)
                        file.write(chunk)
                        length += len(chunk)
                        if length > size:
                            break
                file.flush()
                os.fsync(file.fileno())
            if length != size:
                raise Failed(f"{length} bytes came instead of {size}")
            if digest.hexdigest() != sha256:
                raise Failed("the sha256 is not the manifest's")

        self._tried(name, once)


_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("huggingface_hub.errors", "HfHubHTTPError"),
)


def failures() -> tuple[type[Exception], ...]:
    """What a network may raise. The clients are optional, and only one that is loaded can raise anything."""
    found: list[type[Exception]] = [
        getattr(loaded, name) for module, name in _ERRORS if (loaded := sys.modules.get(module)) is not None
    ]
    # the hub's client, httpx under one name or another, is no dependency of ours; no answer raises its base class
    found += [kind for error in found for kind in error.__mro__ if kind.__name__ == "HTTPError"]
    return (OSError, ValueError, EOFError, *found)
