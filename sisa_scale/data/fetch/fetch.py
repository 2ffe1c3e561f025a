"""Fetch an entry of the catalogue into a directory; called again, it goes on where it stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sisa_scale.data.fetch.catalogue import CATALOGUE, Entry, WebFile
from sisa_scale.data.fetch.hub import RemoteFile, list_files
from sisa_scale.downloads import download
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.files import write_json

RECORD = "fetched.json"


def entry_named(name: str) -> Entry:
    """Return an entry; raises ConfigError that lists the names there are."""
    if name not in CATALOGUE:
        raise ConfigError.at(
            "NAME", found=repr(name), allowed=", ".join(CATALOGUE), remedy="`sisa-scale data fetch` lists them."
        )
    return CATALOGUE[name]


def files_of(entry: Entry, most_bytes: float | None = None) -> list[RemoteFile]:
    """Return the files of an entry, the first that together have at most `most_bytes` (at least one)."""
    if isinstance(entry.files, WebFile):
        return [RemoteFile(entry.files.url.rpartition("/")[2], entry.files.url, entry.files.sha256, None)]
    chosen: list[RemoteFile] = []
    total = 0
    for file in list_files(entry.files):
        total += file.num_bytes or 0
        if chosen and most_bytes is not None and total > most_bytes:
            break
        chosen.append(file)
    return chosen


def fetch(
    name: str, entry: Entry, files: list[RemoteFile], directory: Path, advance: Callable[[int], None]
) -> list[Path]:
    """Download what is not there yet, check it, and record in `fetched.json` what came from where.

    A file counts as there if the record has its SHA-256 and the file its size. Raises DataError.
    """
    record_path = directory / RECORD
    record = _read_record(record_path)
    record |= {"name": name, "licence": entry.licence, "what": entry.what}
    rows: dict[str, Any] = record.setdefault("files", {})
    paths = []
    for file in files:
        path = directory / file.name
        row = rows.get(file.name)
        if row is None or file.sha256 not in (None, row["sha256"]) or not _has_size(path, row["bytes"]):
            digest = download(file.url, path, sha256=file.sha256, num_bytes=file.num_bytes, advance=advance)
            rows[file.name] = {"url": file.url, "sha256": digest, "bytes": path.stat().st_size}
            write_json(record_path, record)
        paths.append(path)
    return paths


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError.at(
            path, found=f"an unreadable record ({error})", allowed="JSON of an earlier fetch", remedy="Remove it."
        ) from error
    return record
