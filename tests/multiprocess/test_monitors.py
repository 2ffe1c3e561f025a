"""Monitors read a run and change nothing of it, under every ZeRO stage."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from processes import free_port, metrics, start_workers

from sisa_scale.reporting.status import read_status
from sisa_scale.runs.logs.evaluations import read_samples
from sisa_scale.runs.logs.events import read_events
from sisa_scale.runs.logs.health import read_health
from sisa_scale.runs.profile_request import ProfileRequest, write_profile_request

SAMPLES = ['evaluation.samples=["The sea", "\u00e9"]', "evaluation.sample_tokens=3"]


def readings(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "monitors.jsonl").read_text().splitlines()]


def check_profile(run_dir: Path) -> None:
    """The trace of steps 2 and 3 on rank 1, and nothing else; its cost is in the ledger."""
    (directory,) = run_dir.glob("diagnostics/attempt_0001/profile_*")
    assert sorted(path.name for path in directory.iterdir()) == ["kernels_1.json", "rank_1.json.gz"]
    trace = json.loads(gzip.decompress((directory / "rank_1.json.gz").read_bytes()))
    marks = {event["name"] for event in trace["traceEvents"] if "ProfilerStep#" in str(event.get("name"))}
    assert marks == {"ProfilerStep#2", "ProfilerStep#3"}
    kinds = json.loads((directory / "kernels_1.json").read_text())["by_kind_ms"]
    assert kinds["matrix products"] > 0
    (event,) = [event for event in read_events(run_dir) if event["event"] == "profile"]
    assert (event["step"], event["steps"], event["ranks"], event["problems"]) == (2, 2, [1], [])
    assert read_status(run_dir).goodput.seconds["profile"] == pytest.approx(event["seconds"])
    assert not (run_dir / "profile_request.json").exists()


def check_health(root: Path) -> None:
    """Every layer has its numbers, the same however often they are read."""
    often, seldom = (read_health(root / name) for name in ("1", "3"))
    assert [row.step for row in seldom] == [3, 6]
    assert [row for row in often if row.step in (3, 6)] == seldom
    for row in seldom:
        for values in (row.gradient_norm, row.activation_rms, row.largest_logit, row.update_ratio):
            assert len(values) == len(seldom[0].update_ratio) > 1
            assert min(values) > 0
        assert max(row.update_ratio) < 1


def check_samples(root: Path) -> None:
    """Every evaluation continues every prompt, the same however often; what ends a document is left out."""
    often, seldom = (read_samples(root / name) for name in ("1", "3"))
    assert [row.step for row in often] == [1, 2, 3, 4, 5, 6, 7]
    assert [row for row in often if row.step in (3, 6, 7)] == seldom
    assert [sample.prompt for sample in seldom[-1].samples] == ["The sea", "\u00e9"]
    assert all(sample.text for sample in seldom[-1].samples)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_losses_with_and_without_monitors_are_equal_to_the_last_bit(recipe: Path, tmp_path: Path, stage: int) -> None:
    common = [f"zero_stage={stage}", "execution.determinism=strict", "schedule.total=7 steps"]
    jobs = [
        (
            "train",
            recipe,
            [f"run_dir={tmp_path}/{every}", f"monitor_every_steps={every}", f"health_every_steps={every}", *common]
            + ([*SAMPLES, f"evaluation.every_steps={every}"] if every else []),
        )
        for every in (0, 1, 3)
    ]
    jobs[-1][2].extend([f"metrics_port={free_port()}", "observation.writers=[tensorboard]"])
    (tmp_path / "3").mkdir()
    write_profile_request(tmp_path / "3", ProfileRequest(2, (1,)))  # taken after the first step
    start_workers(2, jobs)
    plain, *others = (metrics(tmp_path / str(every)) for every in (0, 1, 3))
    for other in others:
        for key in ("loss", "gradient_norm"):
            assert [line[key] for line in other] == [line[key] for line in plain]
    check_profile(tmp_path / "3")
    assert [event for event in read_events(tmp_path / "3") if event["event"] == "metrics_served"]
    assert list((tmp_path / "3" / "tensorboard").iterdir())
    check_health(tmp_path)
    check_samples(tmp_path)
    assert not {"samples.jsonl", "tensorboard"} & {path.name for path in (tmp_path / "0").iterdir()}
    assert not (tmp_path / "0" / "health.jsonl").exists()
    assert not list((tmp_path / "0").glob("diagnostics/*/profile_*"))
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
