"""Evaluation files that are fetched once, checked, and kept."""

import os
from pathlib import Path

from sisa_scale.downloads import download
from sisa_scale.errors import DataError, Problem
from sisa_scale.evaluation.tasks.lambada import OPENAI_SHA256

OPENAI = "openai"
LAMBADA_URL = "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl"


def lambada_file(value: str) -> Path:
    """Return the file that `evaluation.lambada_path` names; `openai` fetches OpenAI's text on first use."""
    return fetch_once(LAMBADA_URL, OPENAI_SHA256) if value == OPENAI else Path(value)


def fetch_once(url: str, sha256: str) -> Path:
    """Return a file of the user's cache, downloaded if it is not there.

    Raises DataError when it cannot be had, or is not the file with this SHA-256; then nothing is kept.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sisa-scale"
    path = cache / url.rpartition("/")[2]
    if not path.is_file():
        try:
            download(url, path, sha256=sha256)
        except DataError as error:
            first = error.problems[0]
            remedy = f"{first.remedy} Or put the file at {path}, or give its path."
            raise DataError(Problem(first.where, first.found, first.allowed, remedy)) from error
    return path
