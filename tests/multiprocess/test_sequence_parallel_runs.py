"""Runs whose workers share sequences: the same tokens and losses as without, under every way to partition."""

import shutil
from pathlib import Path

import pytest
from processes import metrics, start_workers

from sisa_scale.checkpoint.store import CheckpointStore

EXACT = ["precision=fp32", "model.num_heads=4"]
HYMBA = """model.hymba={attention: sisa, num_kv_heads: 1, state_width: 8, head_width: 32, chunk_tokens: 32,
  num_meta_tokens: 4}"""
# Workers, how many of them share a sequence, ZeRO stage.
RUNS = {"alone": (2, 1, 1), "two": (2, 2, 1), "partitioned": (2, 2, 3), "pairs": (4, 2, 2), "four": (4, 4, 0)}


@pytest.fixture(scope="module")
def shared(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shared")
    jobs: dict[int, list[tuple[str, Path, list[str]]]] = {2: [], 4: []}
    for name, (workers, sharing, stage) in RUNS.items():
        settings = [f"run_dir={root}/{name}", f"zero_stage={stage}", f"sequence_parallel_size={sharing}", *EXACT]
        jobs[workers].append(("train", runs / "tiny.yaml", settings))
    for name, (sharing, stage) in {"hymba-alone": (1, 1), "hymba-two": (2, 3)}.items():
        settings = [f"run_dir={root}/{name}", f"zero_stage={stage}", f"sequence_parallel_size={sharing}", *EXACT]
        jobs[2].append(("train", runs / "tiny.yaml", [*settings, "model.kind=hymba", HYMBA, "total=7 steps"]))
    jobs[2].append(("train", runs / "tiny.yaml", [f"run_dir={root}/bf16", "sequence_parallel_size=2"]))
    for workers, started in jobs.items():
        start_workers(workers, started)
    return root


def tokens(run_dir: Path) -> list[tuple[int, int, str]]:
    return [(line["step"], line["tokens"], line["stream_digest"]) for line in metrics(run_dir)]


def column(run_dir: Path, key: str) -> list[float]:
    return [line[key] for line in metrics(run_dir)]


@pytest.mark.parametrize("name", sorted(RUNS.keys() - {"alone"}))
def test_sharing_sequences_changes_nothing(shared: Path, name: str) -> None:
    assert tokens(shared / name) == tokens(shared / "alone")
    assert column(shared / name, "loss") == pytest.approx(column(shared / "alone", "loss"), abs=1e-5)
    norms = column(shared / "alone", "gradient_norm")
    assert column(shared / name, "gradient_norm") == pytest.approx(norms, rel=1e-4)


def test_meta_tokens_are_those_of_every_worker(shared: Path) -> None:
    assert tokens(shared / "hymba-two") == tokens(shared / "hymba-alone")
    assert column(shared / "hymba-two", "loss") == pytest.approx(column(shared / "hymba-alone", "loss"), abs=1e-5)


def test_in_bf16_it_changes_the_rounding(runs: Path, shared: Path) -> None:
    assert tokens(shared / "bf16") == tokens(runs / "stage0")
    assert column(shared / "bf16", "loss") == pytest.approx(column(runs / "stage0", "loss"), abs=2e-3)


def test_evaluations_and_monitors_read_whole_sequences(shared: Path) -> None:
    for name in ("evaluations.jsonl", "monitors.jsonl"):
        found, expected = ((shared / run / name).read_text().count("\n") for run in ("two", "alone"))
        assert found == expected > 0


def test_a_run_goes_on_without_sharing(runs: Path, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "pairs", tmp_path / "run")
    for step in (10, 12):
        shutil.rmtree(CheckpointStore(tmp_path / "run").path(step))
    settings = [f"run_dir={tmp_path}/run", "sequence_parallel_size=1", *EXACT]
    start_workers(1, [("train", runs / "tiny.yaml", settings)])
    assert tokens(tmp_path / "run") == tokens(shared / "alone")
    assert column(tmp_path / "run", "loss") == pytest.approx(column(shared / "alone", "loss"), abs=1e-5)
