"""TensorBoard, through the writer that comes with torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import TENSORBOARD
from sisa_scale.training.hooks.writer import logged_values


class TensorboardWriter:
    """Files in the run directory; every attempt writes one of its own.

    Steps that are taken again after a failure take the place of those from before (`purge_step`). Every step is
    flushed, so that no step before a checkpoint is lost with the process. Where the writer is turned on later than the
    run began, it begins with what the logs hold.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._directory = run_dir, run_dir / TENSORBOARD
        self._writer: Any = None

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write the numbers of a step."""
        if self._writer is None:
            self._begin(step)
        self._add(step, values)
        self._writer.flush()

    def log_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Write prompts and continuations; TensorBoard reads markdown, in which indented text is left as it is."""
        if self._writer is None:
            self._begin(step)
        for number, (prompt, text) in enumerate(samples):
            lines = f"{prompt}\u2502{text}".splitlines()
            self._writer.add_text(f"eval/sample {number}", "\n".join(f"    {line}" for line in lines), step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        is_new = not self._directory.exists()
        self._writer = SummaryWriter(str(self._directory), purge_step=step)
        for before, values in logged_values(self._run_dir, 1, step).items() if is_new else ():
            self._add(before, values)

    def _add(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
