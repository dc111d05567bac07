"""A file server that keeps connections open, as real ones do, and misbehaves on request."""

import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

PAGE = b"<html>please log in</html>"


class _Handler(SimpleHTTPRequestHandler):
    """`faults` maps a file name, or *, to what happens to the next answers: a status, or a word of `do_GET`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = unquote(self.path.rpartition("/")[2])
        self.server.requests.append(name)
        self.server.passwords.append(self.headers.get("Authorization"))
        faults = self.server.faults.get(name) or self.server.faults.get("*", [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        if isinstance(fault, str) and "://" in fault:
            return self.answer(b"", 302, {"Location": fault + self.path})
        if fault == "slow":
            time.sleep(0.5)
        if fault in (None, "slow"):
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        half = data[: len(data) // 2]
        if fault == "cut":
            self.answer(half, length=len(data))
        elif fault == "cut without length":
            self.answer(half, headers={"Connection": "close"}, length=None)
        elif fault == "cut between chunks":
            self.answer(b"%x\r\n" % len(half) + half + b"\r\n", headers={"Transfer-Encoding": "chunked"}, length=None)
        elif fault == "stuck":
            self.answer(half, length=len(data))
            self.server.stuck.wait(20)
        else:
            return self.answer({"page": PAGE, "wrong": bytes(len(data)), "empty": b""}[fault])
        self.close_connection = True
        return None

    def answer(self, body, status=200, headers=None, length=-1):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def handle(self):
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *_):
        pass


@contextmanager
def file_server(folder, tls=None):
    """A server of a folder with `url`, `faults`, `requests` (names) and `passwords` (headers); `tls` makes it https."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.faults, server.requests, server.passwords, server.stuck = {}, [], [], threading.Event()
    server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.stuck.set()
        server.shutdown()
        server.server_close()


def forget_connections():
    """For each test of remote reading: others of this process may have forked while connections were open."""
    import fsspec.asyn
    from fsspec.implementations.http import HTTPFileSystem

    fsspec.asyn.reset_after_fork()
    HTTPFileSystem.clear_instance_cache()
