import json
from pathlib import Path

from sisa_scale.config.reliability import GuardConfig
from sisa_scale.training.health.guard import PastStep
from sisa_scale.training.health.past_steps import read_past_steps

SETTINGS = GuardConfig(window_steps=4, spike_window_steps=8)


def line(step: int, **more: object) -> str:
    return json.dumps({"step": step, "loss": step / 3, "gradient_norm": 0.1, **more}) + "\n"


def test_a_run_without_a_log_has_no_past(tmp_path: Path) -> None:
    assert read_past_steps(tmp_path, 5, SETTINGS) == []


def test_the_last_steps_are_read_to_the_last_bit(tmp_path: Path) -> None:
    broken = line(18, skipped=True).replace("6.0", "null")
    (tmp_path / "metrics.jsonl").write_text("".join(map(line, range(1, 18))) + broken + line(19) + '{"step": 20, "lo')
    found = read_past_steps(tmp_path, 18, SETTINGS)
    assert [past.step for past in found] == list(range(7, 19))
    assert found[0] == PastStep(7, 7 / 3, 0.1, False)
    assert found[-1] == PastStep(18, None, 0.1, True)


def test_a_long_log_is_not_read_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("not a line\n" + "".join(map(line, range(1, 5001))))
    assert [past.step for past in read_past_steps(tmp_path, 5000, SETTINGS)] == list(range(4989, 5001))
