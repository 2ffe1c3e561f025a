"""The last steps of a run as its log has them, for a guard that starts in their midst."""

import json
from pathlib import Path

from sisa_scale.config.reliability import GuardConfig
from sisa_scale.training.health.guard import PastStep

_LINE_BYTES = 1024  # more than a line of metrics.jsonl has


def read_past_steps(run_dir: Path, step: int, settings: GuardConfig) -> list[PastStep]:
    """Return the steps up to `step` that a guard needs to judge the next as if it had seen them, oldest first."""
    num_steps = settings.window_steps + settings.spike_window_steps
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - num_steps * _LINE_BYTES))
        lines = stream.read().splitlines()
    found: dict[int, PastStep] = {}
    for line in lines:
        try:
            values = json.loads(line)
            past = PastStep(values["step"], values["loss"], values["gradient_norm"], bool(values.get("skipped", False)))
        except (ValueError, KeyError, TypeError):
            continue  # cut by the seek above, or torn by a crash
        if past.step <= step:
            found[past.step] = past
    return sorted(found.values())[-num_steps:]
