"""A web server of this machine for tests: files with ranges, broken connections, statuses, a hub's listing."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WebServer(ThreadingHTTPServer):
    """Serves `files` by path. faults, used up in turn: ("status", N), or ("break", N) after so many bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self.faults: dict[str, list[tuple[str, int]]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.knows_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add_json(self, path: str, value: Any, next_path: str | None = None) -> None:
        self.files[path] = json.dumps(value).encode()
        if next_path is not None:
            self.links[path] = f'<{self.url}{next_path}>; rel="next"'


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        wanted, self.path = self.headers.get("Range"), self.path.partition("?")[0]
        self.server.requests.append((self.path, wanted))
        faults = self.server.faults.get(self.path) or []
        kind, number = faults.pop(0) if faults else ("", 0)
        body = self.server.files.get(self.path)
        if kind == "status" or body is None:
            self.send_error(number if kind == "status" else 404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.knows_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if self.path in self.server.links:
            self.send_header("Link", self.server.links[self.path])
        self.end_headers()
        end = start + number if kind == "break" else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
