"""`diagnostics/attempt_NNNN/`: signs of life of the workers of an attempt, and what they leave when one hangs.

heartbeat_R.json    what rank R does, overwritten about once a second
hang.json           the alarm of the watchdog that noticed a hang, then its verdict
answer_R            rank R has seen the alarm and written its stacks
rank_R.txt          stacks of rank R            rank_R.nccl.pickle    NCCL's flight recorder, on GPUs
profile_N/          traces and tables of kernels from step N on, or memory snapshots
out_of_memory_R.pickle  what the GPU of rank R held when its memory ran out
error_R.txt         the traceback of an error that ended rank R
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sisa_scale.files import write_json
from sisa_scale.runs.layout import DIAGNOSTICS
from sisa_scale.runs.problems import file_errors


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the file of a worker says; phase_seconds: how long it had been in the phase when it was written."""

    rank: int
    host: str
    pid: int
    phase: str
    step: int
    phase_seconds: float
    where: str
    in_collective: bool
    time: str

    def write(self, path: Path) -> None:
        """Overwrite the file in place: on NFS a renamed file may stay invisible to others for as long as a minute."""
        line = json.dumps(asdict(self)) + "\n"
        with file_errors(path), path.open("r+" if path.exists() else "w") as stream:
            stream.write(line)
            stream.truncate()

    @classmethod
    def read(cls, path: Path) -> "Heartbeat | None":
        """Read a file; None if it is not there or half written."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """The folder of one attempt."""

    run_dir: Path
    attempt: int

    @property
    def directory(self) -> Path:
        """The folder."""
        return self.run_dir / DIAGNOSTICS / f"attempt_{self.attempt:04d}"

    @property
    def alarm_path(self) -> Path:
        """Where the alarm and the verdict lie."""
        return self.directory / "hang.json"

    def create(self) -> None:
        """Make the folder."""
        with file_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    def stacks_path(self, rank: int) -> Path:
        """Return where a rank writes its stacks."""
        return self.directory / f"rank_{rank}.txt"

    def nccl_path(self, rank: int) -> Path:
        """Return where a rank writes what NCCL's flight recorder holds."""
        return self.directory / f"rank_{rank}.nccl.pickle"

    def profile_directory(self, step: int) -> Path:
        """Return where what was profiled from a step on is written."""
        return self.directory / f"profile_{step:08d}"

    def out_of_memory_path(self, rank: int) -> Path:
        """Return where a rank writes what its GPU held when its memory ran out."""
        return self.directory / f"out_of_memory_{rank}.pickle"

    def write_traceback(self, rank: int, text: str) -> None:
        """Keep the traceback of an error that ended a rank."""
        self.create()
        path = self.directory / f"error_{rank}.txt"
        with file_errors(path):
            path.write_text(text)

    def beat(self, heartbeat: Heartbeat) -> None:
        """Overwrite the heartbeat of a rank."""
        heartbeat.write(self._heartbeat_path(heartbeat.rank))

    def heartbeat(self, rank: int) -> Heartbeat | None:
        """Return the heartbeat of a rank, None if it is not there or half written."""
        return Heartbeat.read(self._heartbeat_path(rank))

    def heartbeats(self) -> list[tuple[Heartbeat, datetime]]:
        """Return the heartbeats of all ranks, and when each was written."""
        beats = [beat for beat in map(Heartbeat.read, sorted(self.directory.glob("heartbeat_*.json"))) if beat]
        return [(beat, datetime.fromisoformat(beat.time)) for beat in beats]

    def has_alarm(self) -> bool:
        """Whether a watchdog has raised the alarm."""
        return self.alarm_path.exists()

    def raise_alarm(self, alarm: Mapping[str, Any]) -> bool:
        """Raise the alarm; returns whether nobody had done so before."""
        with file_errors(self.alarm_path):
            try:
                with self.alarm_path.open("x") as stream:
                    stream.write(json.dumps(alarm))
            except FileExistsError:
                return False
        return True

    def answer(self, rank: int) -> None:
        """Note that a rank has seen the alarm and written its stacks."""
        with file_errors(self._answer_path(rank)):
            self._answer_path(rank).touch()

    def silent(self, world_size: int) -> list[int]:
        """Return the ranks that have not answered."""
        return [rank for rank in range(world_size) if not self._answer_path(rank).exists()]

    def write_verdict(self, verdict: Mapping[str, Any]) -> None:
        """Replace the alarm by the verdict, which names the suspects."""
        with file_errors(self.alarm_path):
            write_json(self.alarm_path, verdict)

    def has_verdict(self) -> bool:
        """Whether the suspects are named."""
        try:
            return "suspects" in json.loads(self.alarm_path.read_text())
        except (OSError, ValueError):
            return False

    def _heartbeat_path(self, rank: int) -> Path:
        return self.directory / f"heartbeat_{rank}.json"

    def _answer_path(self, rank: int) -> Path:
        return self.directory / f"answer_{rank}"
