"""What must be known to repeat a run: versions, source, hardware."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import sisa_scale
from sisa_scale.config.run import RunConfig, config_hash
from sisa_scale.runs.logs.jsonl import time_text

PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "tokenizers", "safetensors", "numpy", "wandb")


def now() -> str:
    """Return the time in UTC, ISO 8601 to the millisecond."""
    return time_text(datetime.now(UTC))


def collect_provenance(
    config: RunConfig,
    data_fingerprint: str,
    num_parameters: int,
    gpus: Sequence[str],
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return versions, git state, hardware and hashes as plain JSON.

    gpus: names of those that this process sees. command: that started the run; None is this process's own.
    """
    return {
        "time": now(),
        "command": list(sys.argv if command is None else command),
        "config_sha256": config_hash(config),
        "data_fingerprint": data_fingerprint,
        "num_parameters": num_parameters,
        "sisa_scale": sisa_scale.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git_state(),
        "hardware": {"platform": platform.platform(), "num_cpus": os.cpu_count(), "gpus": list(gpus)},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    source = Path(sisa_scale.__file__).parent
    try:
        commit = _run(source, "git", "rev-parse", "HEAD")
        return {"commit": commit, "is_dirty": bool(_run(source, "git", "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel


def _run(directory: Path, *command: str) -> str:
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()
