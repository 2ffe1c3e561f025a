"""The report of runs that live, served to this machine's browser and drawn anew as they go on."""

import errno
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sisa_scale.errors import ConfigError, SisaScaleError
from sisa_scale.reporting.curves import curves
from sisa_scale.reporting.html import render_report
from sisa_scale.runs.files import read_run

ADDRESS = "127.0.0.1"
REFRESH_SECONDS = 5.0
_SHARE_OF_TIME = 0.1  # of a core that drawing may take
_HOSTS = ("127.0.0.1", "localhost")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class ReportServer(ThreadingHTTPServer):
    """Answers `/` with the page and `/curves.json` with the numbers; to this machine alone, and under its own name.

    Raises ConfigError where the port is taken; port 0 is any that is free.
    """

    daemon_threads = True

    def __init__(self, run_dirs: Sequence[Path], port: int) -> None:
        self.page = _Kept(lambda: render_report([read_run(path) for path in run_dirs], refresh_seconds=REFRESH_SECONDS))
        self.curves = _Kept(lambda: json.dumps(curves([read_run(path) for path in run_dirs])))
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ConfigError.at(
                "--port",
                found=f"{port}, {(error.strerror or str(error)).lower()}",
                allowed="a page needs a port of its own",
                remedy="Choose another with --port, or --port 0 for any that is free.",
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"


class _Kept:
    """What is made when it is asked for, and kept for a while: the longer, the longer it takes to make."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._text, self._until = "", 0.0

    def get(self) -> str:
        with self._lock:
            if time.monotonic() >= self._until:
                started = time.thread_time()
                self._text = self._make()
                seconds = (time.thread_time() - started) / _SHARE_OF_TIME
                self._until = time.monotonic() + max(REFRESH_SECONDS / 2, seconds)
            return self._text


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        """Answer; a page of another name that leads here (DNS rebinding) gets nothing."""
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        kept = {"/": (self.server.page, "text/html"), "/curves.json": (self.server.curves, "application/json")}
        if host not in _HOSTS or self.path not in kept:
            self.send_error(403 if host not in _HOSTS else 404)
            return
        source, kind = kept[self.path]
        try:
            body, code = source.get().encode("utf-8", "replace"), 200
        except (SisaScaleError, ValueError, KeyError) as error:  # a run that is just being made, or damaged
            body, code, kind = str(error).encode("utf-8", "replace"), 500, "text/plain"
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing of requests."""
