from datetime import UTC, datetime
from pathlib import Path

from sisa_scale.launching.progress import progress
from sisa_scale.runs.attempts import Attempt, write_attempts


def test_a_run_that_has_saved_nothing_is_at_step_0(tmp_path: Path) -> None:
    assert progress(tmp_path) == (0, "-")
    attempt = Attempt(attempt=1, world_size=1, zero_stage=1, started=datetime.now(tz=UTC), outcome="interrupted")
    write_attempts(tmp_path, [attempt])
    assert progress(tmp_path) == (0, "interrupted")
