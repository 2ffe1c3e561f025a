"""Lines of the logs of a run, for tests."""

from datetime import UTC, datetime
from typing import Any

from sisa_scale.runs.logs.metrics import StepRow

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def step_row(step: int, **values: Any) -> StepRow:
    """Return a step of 256 tokens and half a second."""
    row: dict[str, Any] = {"tokens": 256 * step, "loss": 6 - step / 8, "learning_rate": 1e-3, "gradient_norm": 1.0}
    row |= {"tokens_per_second": 512.0, "step_seconds": 0.5, "stream_digest": f"{step:016x}", "attempt": 1}
    return StepRow(**{"step": step, "time": TIME, **row, **values})
