"""Being asked to look into the next steps: a file in the run directory, which the main worker takes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sisa_scale.files import write_json
from sisa_scale.runs.layout import PROFILE_REQUEST
from sisa_scale.runs.problems import RunDirectoryError, file_errors


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """Trace the next `steps` steps on some ranks, None is all; is_memory: keep the GPU's allocations instead."""

    steps: int
    ranks: Sequence[int] | None = None
    is_memory: bool = False

    def includes(self, rank: int) -> bool:
        """Whether a rank is asked."""
        return self.ranks is None or rank in self.ranks


def request_path(run_dir: Path) -> Path:
    """Return where the request of a run lies until it is taken."""
    return run_dir / PROFILE_REQUEST


def write_profile_request(run_dir: Path, request: ProfileRequest) -> None:
    """Ask a run."""
    with file_errors(request_path(run_dir)):
        write_json(request_path(run_dir), asdict(request))


def withdraw_profile_request(run_dir: Path) -> bool:
    """Remove the request; returns whether it was still there."""
    path = request_path(run_dir)
    with file_errors(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True


def take_profile_request(run_dir: Path) -> ProfileRequest | None:
    """Read the request and remove it; None if it cannot be read."""
    try:
        note = json.loads(request_path(run_dir).read_text())
        ranks = None if note["ranks"] is None else tuple(map(int, note["ranks"]))
        request = ProfileRequest(max(1, int(note["steps"])), ranks, bool(note["is_memory"]))
    except (OSError, ValueError, TypeError, KeyError):
        request = None
    try:
        withdraw_profile_request(run_dir)
    except RunDirectoryError:  # a directory that cannot be written; it would be taken at every step
        return None
    return request
