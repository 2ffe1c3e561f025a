"""What tests of the token stream share: opening data sets, and a real HTTP server that can misbehave."""

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from sisa_scale.config.data import DataConfig
from sisa_scale.data.build.pipeline import UnitReport, run_here
from sisa_scale.data.build.settings import WorkSettings
from sisa_scale.data.build.shards.summaries import UnitSummary
from sisa_scale.data.build.units import Unit
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.reader import ShardReader
from sisa_scale.data.read.storage import open_storage
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.data.tokenizer import load_tokenizer


def reader_of(directory: Path, split: str = "train") -> ShardReader:
    """Return a reader of one split of a data set in a directory."""
    return ShardReader(open_storage(directory), load_manifest(directory), split)


def data_config(location: str | Path | None, sequences: int = 12, length: int = 64, **changes: Any) -> DataConfig:
    """Return a section `data` with batches of so many sequences of so many tokens."""
    settings: dict[str, Any] = {"seed": 3, "sequence_tokens": length, "global_batch_tokens": sequences * length}
    return DataConfig(path=None if location is None else str(location), **(settings | changes))


def open_stream(location: str | Path | None, sequences: int = 12, length: int = 64, **changes: Any) -> TokenStream:
    """Return the stream of that section."""
    return TokenStream(data_config(location, sequences, length, **changes))


def stream(directory: Path, split: str = "train") -> np.ndarray:
    """The tokens of a split, as any reader of tars finds them."""
    pieces = []
    for shard in load_manifest(directory).split(split).shards:
        with tarfile.open(directory / shard.name) as archive:
            for member in archive.getmembers()[:-1]:
                block = np.load(io.BytesIO(archive.extractfile(member).read()))  # type: ignore[union-attr]
                pieces.append(block[(1 if pieces else 0) :])
    return np.concatenate(pieces)


def texts_of(directory: Path, split: str = "train") -> list[str]:
    """The documents of a split, decoded."""
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    tokens = stream(directory, split)
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    return [tokenizer.decode(part[part != tokenizer.eos_id].tolist()) for part in np.split(tokens, ends + 1)[:-1]]


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a data set."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


class CountingRunner:
    """Runs units and counts those that are tokenized."""

    def __init__(self) -> None:
        self.num_units = 0

    def __call__(
        self, units: Sequence[Unit], settings: WorkSettings, directory: Path, report: UnitReport
    ) -> list[UnitSummary]:
        self.num_units += len(units) if settings.stage == "tokenize" else 0
        return run_here(units, settings, directory, report)


class Server:
    """A server of files on this machine. `misbehave` is called before each answer and may answer instead: True."""

    def __init__(self, directory: Path, has_ranges: bool) -> None:
        self.requests: Counter[str] = Counter()
        self.misbehave: Callable[[SimpleHTTPRequestHandler], bool] = lambda handler: False
        owner = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(directory))

            def do_GET(self) -> None:
                owner.requests[Path(self.path).name] += 1
                if owner.misbehave(self):
                    return
                asked = self.headers.get("Range")
                path = Path(self.translate_path(self.path))
                if not (has_ranges and asked and path.is_file()):
                    super().do_GET()
                    return
                start, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
                send(self, 206, path.read_bytes()[start : last + 1])

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serve(directory: Path, has_ranges: bool = True) -> Iterator[Server]:
    """Serve a directory over HTTP; without ranges as `python -m http.server` does, which answers with whole files."""
    server = Server(directory, has_ranges)
    try:
        yield server
    finally:
        server.close()


def send(handler: SimpleHTTPRequestHandler, status: int, body: bytes, claimed: int | None = None) -> None:
    """Answer a request; `claimed`: the length that the header says, if it is to lie."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if claimed is None else claimed))
    handler.end_headers()
    handler.wfile.write(body)
    if claimed is not None:
        handler.close_connection = True
