"""Monitors read a run and change nothing of it, under every ZeRO stage."""

import json
from pathlib import Path
from typing import Any

import pytest
from processes import metrics, start_workers


def readings(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "monitors.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_losses_with_and_without_monitors_are_equal_to_the_last_bit(recipe: Path, tmp_path: Path, stage: int) -> None:
    common = [f"zero_stage={stage}", "execution.determinism=strict", "schedule.total=7 steps"]
    jobs = [
        ("train", recipe, [f"run_dir={tmp_path}/{every}", f"monitor_every_steps={every}", *common])
        for every in (0, 1, 3)
    ]
    start_workers(2, jobs)
    plain, *others = (metrics(tmp_path / str(every)) for every in (0, 1, 3))
    for other in others:
        for key in ("loss", "gradient_norm"):
            assert [line[key] for line in other] == [line[key] for line in plain]
    assert not (tmp_path / "0" / "monitors.jsonl").exists()
    rows = readings(tmp_path / "3")
    assert [row["step"] for row in rows] == [3, 6, 7]
    for row in rows:
        assert sum(row["gradient_shares"].values()) == pytest.approx(1.0)
        assert row["gradient_shares"]["phase"] > 0
        for key in ("phase_change_radians", "largest_importance_logit", "largest_content_logit", "norm_b", "norm_c"):
            assert min(row[key]) > 0
    first, *later = readings(tmp_path / "1")
    assert not {"phase_change_radians", "gradient_shares"} & first.keys()  # nothing was read before it
    assert [row for row in later if row["step"] in (3, 6, 7)] == rows
