"""The listing of files at the Hugging Face Hub: `GET /api/REPO/tree/REVISION/FOLDER`."""

import json
import os
import re
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from sisa_scale.data.fetch.catalogue import HUB, HubFiles
from sisa_scale.downloads import TIMEOUT_SECONDS
from sisa_scale.errors import DataError

_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


class RemoteFile(NamedTuple):
    """A file to download. sha256: None where the server does not tell; num_bytes likewise."""

    name: str
    url: str
    sha256: str | None
    num_bytes: int | None


def list_files(files: HubFiles, revision: str = "main") -> list[RemoteFile]:
    """Return the files in order of their names. HF_ENDPOINT names a mirror. Raises DataError without an answer."""
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    url: str | None = f"{endpoint}/api/{files.repo}/tree/{revision}/{files.folder}"
    found = []
    while url is not None:
        rows, url = _page(url)
        for row in rows:
            path = str(row["path"])
            if row.get("type") == "file" and path.endswith(files.suffix):
                large = row.get("lfs") or {}
                address = f"{endpoint}/{files.repo}/resolve/{revision}/{path}"
                found.append(RemoteFile(path.rpartition("/")[2], address, large.get("oid"), int(row["size"])))
    if not found:
        raise DataError.at(
            f"{endpoint}/{files.repo}",
            found=f"no file {files.suffix} in {files.folder}",
            allowed="the folder holds the corpus",
            remedy="The source has changed: look at the page and fetch by hand.",
        )
    return sorted(found)


def _page(url: str) -> tuple[list[dict[str, Any]], str | None]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            rows: list[dict[str, Any]] = json.load(response)
            following = _NEXT.search(response.headers.get("Link") or "")
    except (OSError, ValueError) as error:
        raise DataError.at(
            url,
            found=f"no listing ({error})",
            allowed="the hub lists the files of a public data set",
            remedy="Check the network; HF_ENDPOINT=https://... names a mirror.",
        ) from error
    return rows, following[1] if following else None
