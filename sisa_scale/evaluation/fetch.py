"""Evaluation files that are fetched once, checked, and kept."""

import hashlib
import os
import urllib.request
from pathlib import Path

from sisa_scale.errors import DataError
from sisa_scale.evaluation.tasks.lambada import OPENAI_SHA256
from sisa_scale.files import atomic_writer

OPENAI = "openai"
LAMBADA_URL = "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl"
_TIMEOUT_SECONDS = 30.0


def lambada_file(value: str) -> Path:
    """Return the file that `evaluation.lambada_path` names; `openai` fetches OpenAI's text on first use."""
    return fetch_once(LAMBADA_URL, OPENAI_SHA256) if value == OPENAI else Path(value)


def fetch_once(url: str, sha256: str) -> Path:
    """Return a file of the user's cache, downloaded if it is not there.

    Raises DataError when it cannot be had, or is not the file with this SHA-256; then nothing is kept.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sisa-scale"
    path = cache / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            content: bytes = response.read()
    except OSError as error:
        raise DataError.at(
            url,
            found=f"no answer ({error})",
            allowed="the file is fetched once, then read from the cache",
            remedy=f"Put the file at {path} or give its path.",
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError.at(
            url,
            found=f"a file with SHA-256 {digest}",
            allowed=f"it must be {sha256}",
            remedy="Try again, or give the path of a copy you trust.",
        )
    with atomic_writer(path) as stream:
        stream.write(content)
    return path
