"""Servers on this machine: a folder, which misbehaves on request, and what the clients of hf:// and gs:// ask for."""

import json
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = b"<html>please log in</html>"
Files = Mapping[str, bytes]
Found = bytes | list[dict[str, object]] | dict[str, str] | None
"""A file, or what is answered as JSON, or None for what is not there."""


class Server(ThreadingHTTPServer):
    """`requests` lists what was asked for, `passwords` the headers that came with it."""

    daemon_threads = True

    def __init__(self, handler: type["_Handler"], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.directory = ""
        self.files: Files = {}
        self.password: str | None = None
        """Wanted of user `me`; others get 401."""
        self.faults: dict[str, list[int | str]] = {}
        """File name, or *, -> what happens to the next answers: a status, an address, or a word of `_misbehave`."""
        self.requests: list[str] = []
        self.passwords: list[str | None] = []
        self.stuck = threading.Event()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    """Keeps connections open, as real servers do."""

    protocol_version = "HTTP/1.1"
    server: Server

    def answer(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None, length: int | None = -1
    ) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


class _Folder(_Handler):
    def do_GET(self) -> None:
        name = unquote(self.path.rpartition("/")[2])
        given = self.headers.get("Authorization")
        self.server.requests.append(name)
        self.server.passwords.append(given)
        faults = self.server.faults.get(name) or self.server.faults.get("*", [])
        fault = faults.pop(0) if faults else None
        wanted = self.server.password
        if wanted is not None and given != f"Basic {b64encode(f'me:{wanted}'.encode()).decode()}":
            fault = 401
        if fault == "slow":
            time.sleep(0.5)
        if fault in (None, "slow"):
            super().do_GET()
        elif isinstance(fault, int):
            self.send_error(fault)
        elif "://" in str(fault):
            self.answer(b"", 302, {"Location": f"{fault}{self.path}"})
        else:
            self._misbehave(fault, Path(self.translate_path(self.path)).read_bytes())

    def translate_path(self, path: str) -> str:
        self.directory = self.server.directory
        return super().translate_path(path)

    def _misbehave(self, fault: str | None, data: bytes) -> None:
        half = data[: len(data) // 2]
        self.close_connection = fault not in ("page", "wrong", "empty")
        match fault:
            case "cut":
                self.answer(half, length=len(data))
            case "cut without length":
                self.answer(half, headers={"Connection": "close"}, length=None)
            case "cut between chunks":
                chunk = b"%x\r\n" % len(half) + half + b"\r\n"
                self.answer(chunk, headers={"Transfer-Encoding": "chunked"}, length=None)
            case "stuck":
                self.answer(half, length=len(data))
                self.server.stuck.wait(20)
            case _:
                self.answer({"page": PAGE, "wrong": bytes(len(data)), "empty": b""}[str(fault)])


class _Store(_Handler):
    """Answers as far as reading a folder of files goes, from memory."""

    always: Mapping[str, str] = MappingProxyType({})

    def find(self, path: str, query: Mapping[str, list[str]]) -> Found:
        raise NotImplementedError

    def do_GET(self) -> None:
        url, held = urlsplit(self.path), self.headers.get("Range")
        self.server.requests.append(f"{self.path} {held or ''}".strip())
        found = self.find(unquote(url.path), parse_qs(url.query))
        if found is None:
            self.answer(b'{"error": {"code": 404, "message": "no such object"}}', 404, self.always)
        elif not isinstance(found, bytes):
            self.answer(json.dumps(found).encode(), headers=self.always)
        elif held is None:
            self.answer(found, headers=self.always)
        else:
            begin, end = held.removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or len(found)), len(found) - 1)
            part = {"Content-Range": f"bytes {first}-{last}/{len(found)}", **self.always}
            self.answer(found[first : last + 1], 206, part)

    def do_HEAD(self) -> None:
        self.do_GET()


class _HuggingFace(_Store):
    """The dataset repository user/set."""

    always = MappingProxyType({"ETag": '"e"', "X-Repo-Commit": "0" * 40})

    def find(self, path: str, query: Mapping[str, list[str]]) -> Found:
        files = self.server.files
        if path.startswith("/datasets/user/set/resolve/main/"):
            return files.get(path.removeprefix("/datasets/user/set/resolve/main/"))
        if path.startswith("/api/datasets/user/set/tree/main/"):
            folder = path.removeprefix("/api/datasets/user/set/tree/main/")
            inside = {name: data for name, data in files.items() if name.startswith(folder + "/")}
            return [{"type": "file", "path": n, "size": len(d), "oid": "a" * 40} for n, d in inside.items()] or None
        return {"_id": "1", "id": "user/set", "sha": "0" * 40} if path == "/api/datasets/user/set" else None


class _GoogleCloud(_Store):
    """The bucket named bucket."""

    def find(self, path: str, query: Mapping[str, list[str]]) -> Found:
        name = path.partition("/b/bucket/o/")[2]
        data = self.server.files.get(name)
        if path.endswith("/b/bucket/o"):
            return {"kind": "storage#objects"}  # no folders
        if data is None or "media" in query.get("alt", ()):
            return data
        link = f"{self.server.url}/download/storage/v1/b/bucket/o/{name.replace('/', '%2F')}?alt=media"
        return {"name": name, "bucket": "bucket", "size": str(len(data)), "generation": "1", "mediaLink": link}


@contextmanager
def _serving(server: Server) -> Iterator[Server]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.stuck.set()
        server.shutdown()
        server.server_close()


def file_server(
    folder: Path, tls: ssl.SSLContext | None = None, password: str | None = None
) -> AbstractContextManager[Server]:
    """A server of a folder; `tls` makes it https, `password` closes it to all but user `me`."""
    server = Server(_Folder, tls)
    server.directory, server.password = str(folder), password
    return _serving(server)


def hugging_face(files: Files) -> AbstractContextManager[Server]:
    """A server with these files, name to bytes, in the dataset repository user/set."""
    server = Server(_HuggingFace)
    server.files = files
    return _serving(server)


def google_cloud(files: Files) -> AbstractContextManager[Server]:
    """A server with these files, name to bytes, in the bucket named bucket."""
    server = Server(_GoogleCloud)
    server.files = files
    return _serving(server)


def forget_connections() -> None:
    """For each test of remote reading: others of this process may have forked while connections were open."""
    import fsspec.asyn
    from fsspec.implementations.http import HTTPFileSystem

    fsspec.asyn.reset_after_fork()
    HTTPFileSystem.clear_instance_cache()
