"""Servers that answer the real clients of hf:// and gs:// as far as reading a folder of files goes, from memory."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        self.server.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        found = self.answer(unquote(url.path), parse_qs(url.query))
        if found is None:
            return self.send(b'{"error": {"code": 404, "message": "no such object"}}', 404)
        if isinstance(found, bytes):
            return self.send_file(found)
        return self.send(json.dumps(found).encode())

    do_HEAD = do_GET

    def send_file(self, data):
        held = self.headers.get("Range")
        if held is None:
            return self.send(data)
        first, last = held.removeprefix("bytes=").split("-")
        first, last = int(first), min(int(last or len(data)), len(data) - 1)
        return self.send(data[first : last + 1], 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def send(self, data, status=200, headers=None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | dict(self.always) | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _HuggingFace(_Handler):
    """The dataset repository user/set."""

    always = (("ETag", '"e"'), ("X-Repo-Commit", "0" * 40))

    def answer(self, path, query):
        files = self.server.files
        if path.startswith("/datasets/user/set/resolve/main/"):
            return files.get(path.removeprefix("/datasets/user/set/resolve/main/"))
        if path.startswith("/api/datasets/user/set/tree/main/"):
            folder = path.removeprefix("/api/datasets/user/set/tree/main/")
            inside = {name: data for name, data in files.items() if name.startswith(folder + "/")}
            listed = [{"type": "file", "path": n, "size": len(d), "oid": "a" * 40} for n, d in inside.items()]
            return listed or None
        return {"_id": "1", "id": "user/set", "sha": "0" * 40} if path == "/api/datasets/user/set" else None


class _GoogleCloud(_Handler):
    """The bucket named bucket."""

    always = ()

    def answer(self, path, query):
        name = path.partition("/b/bucket/o/")[2]
        data = self.server.files.get(name)
        if path.endswith("/b/bucket/o"):
            return {"kind": "storage#objects"}  # no folders
        if data is None or "media" in query.get("alt", ()):
            return data
        link = f"{self.server.url}/download/storage/v1/b/bucket/o/{name.replace('/', '%2F')}?alt=media"
        return {"name": name, "bucket": "bucket", "size": str(len(data)), "generation": "1", "mediaLink": link}


@contextmanager
def _serving(handler, files):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.files, server.requests, server.url = files, [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def hugging_face(files):
    """A server with these files, name to bytes, in the dataset repository user/set."""
    return _serving(_HuggingFace, files)


def google_cloud(files):
    """A server with these files, name to bytes, in the bucket named bucket."""
    return _serving(_GoogleCloud, files)
