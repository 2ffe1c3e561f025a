"""Monitors read a run and change nothing of it, under every ZeRO stage."""

from pathlib import Path

import pytest
from processes import metrics, start_workers

from sisa_scale.runs.files import read_run


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
    assert read_run(tmp_path / "0").monitors == []
    rows = read_run(tmp_path / "3").monitors
    assert [row.step for row in rows] == [3, 6, 7]
    for row in rows:
        assert sum(row.gradient_shares.values()) == pytest.approx(1.0)
        assert row.gradient_shares["phase"] > 0
        assert all(change > 0 for change in row.phase_change_radians)
        assert min(*row.largest_importance_logit, *row.largest_content_logit, *row.norm_b, *row.norm_c) > 0
    first, *later = read_run(tmp_path / "1").monitors
    assert first.phase_change_radians == [] and first.gradient_shares == {}  # nothing was read before the first step
    assert [row for row in later if row.step in (3, 6, 7)] == rows
