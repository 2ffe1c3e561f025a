"""Which files the inputs of a build name, which lie beside them and are passed over, and why."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.data.build.inputs.input_file import (
    ENDINGS,
    Input,
    endings,
    file_name,
    is_remote,
    open_file_system,
    reason_of,
    refuse_access,
    without_query,
)
from sisa_scale.data.build.inputs.names import Namer
from sisa_scale.data.build.inputs.web import ENCODINGS, is_web, web_info
from sisa_scale.data.problems import os_errors
from sisa_scale.errors import DataError, Problem

_HIDDEN = "its name begins with a dot"
_SPECIAL = "it is no regular file"
_JSON = "a .json file of a directory may be anything; name it, or a pattern such as '*.json', if it is JSON lines"
_MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file or folder among the inputs that is not read. name: as `Input.name`; a folder's ends with a slash."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the inputs of a build come to. files: in reading order."""

    files: list[Input]
    passed_over: list[PassedOver]


# A path, and why it is passed over, if it is.
_Entry = tuple[str, str | None]


def find_inputs(paths: Sequence[Path | str]) -> Found:
    """Return the files that `paths` name, in reading order, and those passed over.

    A directory means all below it, sorted, through links; hidden names are passed over. A path that does not exist and
    holds `*`, `?` or `[` is a pattern, with `**` for any folders. A URL may hold `*`, and on object stores name a
    directory. Raises DataError for a missing path, a link to nothing, what may not be read, an ending that is not
    supported, or a directory or pattern without any supported file.
    """
    entries: list[tuple[str, str | None, dict[str, Any] | None]] = []
    roots = []
    for path in paths:
        if is_remote(path):
            root, remote = _find_remote(str(path))
            entries += remote
        else:
            root, local = _find_local(str(path))
            entries += [(url, reason, None) for url, reason in local]
        roots.append(root)
    namer = Namer(roots)
    passed_over = [PassedOver(namer.name(url), reason) for url, reason, _ in entries if reason]
    chosen = [(url, info) for url, reason, info in entries if not reason]
    _check_readable([url for url, info in chosen if info is None])
    files = [_input(url, info, namer.name(url)) for url, info in chosen]
    return Found(files, passed_over)


def _find_local(path: str) -> tuple[str, list[_Entry]]:
    """Return the folder that names are relative to, and the entries."""
    if Path(path).is_dir():
        found = list(_walk(path, _Links(path)))
        return path, found if any(reason is None for _, reason in found) else _refuse_directory(path, found)
    if os.path.lexists(path):
        if not Path(path).exists():
            raise _dangling(path)
        _check_ending(path)
        return str(Path(path).parent), [(path, None)]
    if not glob.has_magic(path):
        raise _missing(path)
    root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] or path[: path.startswith("/")]
    found = []
    for match in sorted(map(Path, glob.iglob(path, recursive=True))):  # noqa: PTH207 - a pattern may be absolute
        name = str(match)
        if not Path(name).is_dir():
            if not Path(name).exists():
                raise _dangling(name)
            found.append((name, _why_not(name, is_json_read=path.lower().endswith(".json"))))
        elif "**" not in path:  # which finds what lies in folders by itself
            found += _walk(name, _Links(name))
    return root, found if any(reason is None for _, reason in found) else _refuse_directory(path, found)


class _Links:
    """Which folders a walk has entered, so that links lead into none of them twice and never in a circle."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._entered: set[str] = set()

    def why_not(self, folder: str) -> str | None:
        target = os.path.realpath(folder)
        common = os.path.commonpath([target, self._root])
        if common in (target, self._root):
            return f"a link to {target}, " + ("which is read anyway" if common == self._root else "which holds it")
        if target in self._entered:
            return f"a link to {target}, which is read already"
        self._entered.add(target)
        return None


def _walk(folder: str, links: _Links) -> Iterator[_Entry]:
    with os_errors(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        is_link = entry.is_symlink()
        if entry.name.startswith("."):
            yield entry.path + ("/" if entry.is_dir() else ""), _HIDDEN
        elif is_link and not Path(entry.path).exists():
            raise _dangling(entry.path)
        elif entry.is_dir():
            reason = links.why_not(entry.path) if is_link else None
            if reason:
                yield entry.path + "/", reason
            else:
                yield from _walk(entry.path, links)
        else:
            yield entry.path, _why_not(entry.path)


def _why_not(path: str, *, is_json_read: bool = False) -> str | None:
    """Return why a file of a directory or pattern is passed over, if it is."""
    name = file_name(path)
    if not is_remote(path) and not Path(path).is_file():
        return _SPECIAL
    if not endings(name)[0]:
        return f"its ending {Path(name).suffix!r} is none of text" if Path(name).suffix else "it has no ending"
    return _JSON if name.lower().endswith(".json") and not is_json_read else None


def _find_remote(url: str) -> tuple[str, list[tuple[str, str | None, dict[str, Any] | None]]]:
    system, path = open_file_system(url)
    plain = without_query(url)
    try:
        root, is_json_read = plain, False
        if "*" in path:
            names = sorted(system.glob(path))
            root, is_json_read = plain.partition("*")[0].rpartition("/")[0], plain.lower().endswith(".json")
        elif not is_web(url) and not _exists(system, path):
            raise _missing(plain)
        elif not is_web(url) and system.isdir(path):
            names = sorted(system.find(path))
        else:
            _check_ending(url)
            names, root, is_json_read = [path], plain.rpartition("/")[0], True
        found: list[tuple[str, str | None, dict[str, Any] | None]] = []
        for name in names:
            full = name if is_remote(name) else system.unstrip_protocol(name)
            reason = _why_not(full, is_json_read=is_json_read)
            found.append((full, reason, {} if reason else _info(system, full if is_web(url) else name)))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise _missing(plain) from error
    except Exception as error:  # each protocol has its own
        refuse_access(url, error)
        raise DataError.at(
            plain,
            found=f"a location that does not answer ({reason_of(error)})",
            allowed="inputs exist and may be read",
            remedy="Check the address, the credentials and the connection.",
        ) from error
    if all(reason for _, reason, _ in found):
        _refuse_directory(plain, [(name, reason) for name, reason, _ in found])
    return root, found


def _exists(system: Any, path: str) -> bool:
    try:
        system.info(path)
    except FileNotFoundError as error:
        refuse_access(path, error)
        return bool(system.exists(path))  # a directory has no entry of its own everywhere
    return True


def _info(system: Any, name: str) -> dict[str, Any]:
    if not is_web(name):
        entry: dict[str, Any] = system.info(name)
        return entry
    info = web_info(system, name)
    encoding = info["encoding"]
    if info["size"] is None or (encoding and (encoding not in ENCODINGS or endings(file_name(name))[0] == "parquet")):
        raise DataError.at(
            without_query(name),
            found=f"an answer packed as {encoding}" if encoding else "an answer without Content-Length",
            allowed="a server says how many bytes it sends, and packs texts, if at all, as gzip or zstd",
            remedy="Download the file, and build from that: curl --compressed -fLO URL",
        )
    return info


def _input(url: str, info: dict[str, Any] | None, name: str) -> Input:
    if info is None:
        status = Path(url).stat()
        return Input(url, status.st_size, str(status.st_mtime_ns), name)
    keys = ("version", "ETag", "etag", "LastModified", "mtime", "updated")
    version = next((info[key] for key in keys if info.get(key)), "")
    return Input(url, int(info.get("size") or 0), str(version), name, info.get("encoding", ""))


def _check_readable(paths: Sequence[str]) -> None:
    refused = [path for path in paths if not os.access(path, os.R_OK)]
    if refused:
        raise DataError.many(
            Problem(path, "no permission", "inputs may be read by who builds", "Correct its owner or mode.")
            for path in refused[:_MAX_PROBLEMS]
        )


def _dangling(path: str) -> DataError:
    return DataError.at(
        path,
        found=f"a link to {Path(path).readlink()}, which is not there",
        allowed="links among the inputs lead to files or folders",
        remedy="Restore what it leads to, or remove the link.",
    )


def _missing(path: Path | str) -> DataError:
    return DataError.at(
        path, found="no such file", allowed="inputs are existing files or directories", remedy="Check the path."
    )


def _refuse_directory(path: Path | str, found: Sequence[_Entry]) -> list[Any]:
    passed = "".join(f"\n    {name}: {reason}" for name, reason in found[:_MAX_PROBLEMS])
    more = f"\n    and {len(found) - _MAX_PROBLEMS} more" if len(found) > _MAX_PROBLEMS else ""
    raise DataError.at(
        path,
        found="a pattern without any text file" if glob.has_magic(str(path)) else "a directory without any text file",
        allowed=f"text files end in {ENDINGS}",
        remedy="Name a file, or a directory that holds some." + (f" Passed over:{passed}{more}" if passed else ""),
    )


def _check_ending(path: str) -> None:
    if not endings(file_name(path))[0]:
        raise DataError.at(
            without_query(path),
            found=f"the suffix {Path(file_name(path)).suffix!r}",
            allowed=f"text files end in {ENDINGS}",
            remedy="Convert the file to one of these formats, or rename it.",
        )
