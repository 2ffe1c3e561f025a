"""Muon under every ZeRO stage and on 1, 2 and 4 workers: the same steps, and no matrix orthogonalised twice.

All runs have a ramp of the global batch, from 4 to 8 sequences after two steps, and a moving average of the weights.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import start_workers

from sisa_scale.api import evaluate, load_checkpoint
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.config import load_config
from sisa_scale.config.optimizers.muon import is_hidden
from sisa_scale.conversion.average import average
from sisa_scale.conversion.compare import differences
from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.conversion.moving_average import chosen_weights
from sisa_scale.errors import CheckpointError
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.row_parts import row_parts
from sisa_scale.runs.logs.evaluations import read_scores
from sisa_scale.runs.logs.metrics import read_steps

PROGRAM = Path(__file__).with_name("muon_program.py")
SETTINGS = ["optimizer.kind=muon", "precision=fp32", "checkpoint.every_steps=1", "checkpoint.asynchronous=false"]
SETTINGS += ["evaluation.tasks=[]", "monitor_every_steps=0", "total=4 steps", "warmup=1 steps", "decay=0 steps"]
HALF_LIFE = 700.0
SETTINGS += [
    f"ema_half_life_tokens={HALF_LIFE}",
    "micro_batch_sequences=1",
    "global_batch_ramp=[{until: 2 steps, global_batch_tokens: 256}]",
]
SCORED = ["evaluation.tasks=[loss]", "evaluation.every_steps=2"]
NUM_MATRICES = 2 * (7 + 1 + 2 + 1)  # of a layer: q, C, k, B, v, decay and phase; out; gate and up; down
# A sum of gradients in another order differs in its last bits; orthogonalisation magnifies a small singular value's
# error up to 3.4445^5 = 485 times.
ROUNDING = 5e-6
Tensors = dict[tuple[str, str], torch.Tensor]
RUNS = [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (4, 2)]


def job(recipe: Path, name: str, stage: int, *settings: str, action: str = "train") -> tuple[str, Path, list[str]]:
    return action, recipe, [f"run_dir={recipe.parent}/{name}", f"zero_stage={stage}", *SETTINGS, *settings]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[[Path], Path]) -> Path:
    root = tmp_path_factory.mktemp("muon")
    recipe = write_recipe(root)
    for workers in (4, 2):
        start_workers(
            workers, [job(recipe, f"{n}-{stage}", stage, *SCORED) for n, stage in RUNS if n == workers], PROGRAM
        )
    shutil.copytree(root / "4-2", root / "moved")
    for step in (3, 4):
        shutil.rmtree(CheckpointStore(root / "moved").path(step))
    jobs = [
        job(recipe, "1-0", 0, *SCORED),
        job(recipe, "moved", 1),
        job(recipe, "offloaded", 2, "offload_optimizer=true", "total=2 steps"),
        job(recipe, "late", 2, "total=1 steps", "ema_half_life_tokens=null"),
        job(recipe, "late", 2, "total=2 steps"),
        job(recipe, "sgd", 1, "total=2 steps", action="sgd"),
        job(recipe, "changed", 1, "total=2 steps", "optimizer.kind=adamw"),
        job(recipe, "changed", 1, "optimizer.replaces=adamw"),
        job(recipe, "small", 0, "total=2 steps", "global_batch_ramp=[]", "global_batch_tokens=256"),
    ]
    start_workers(1, jobs, PROGRAM)
    return root


def tensors(run_dir: Path, step: int, *kinds: str) -> Tensors:
    path, manifest = find_checkpoint(CheckpointStore(run_dir).path(step))
    reader = CheckpointReader(path, manifest)
    return {
        (kind, name): reader.read(kind, name).view(manifest.shapes[name])
        for kind, name in manifest.tensors
        if not kinds or kind in kinds
    }


def largest_difference(
    first: dict[tuple[str, str], torch.Tensor], second: dict[tuple[str, str], torch.Tensor]
) -> float:
    assert first.keys() == second.keys()
    return max((tensor - second[key]).abs().max().item() for key, tensor in first.items())


def test_a_ramp_takes_the_steps_of_its_batches(folder: Path) -> None:
    small, *ramped = (read_steps(folder / name) for name in ("small", *(f"{n}-{stage}" for n, stage in RUNS), "moved"))
    assert largest_difference(tensors(folder / "1-0", 2), tensors(folder / "small", 2)) == 0
    for steps in ramped:
        assert [row.tokens for row in steps] == [256, 512, 1024, 1536]
        assert [row.stream_digest for row in steps] == [row.stream_digest for row in ramped[0]]
        assert [row.gradient_norm for row in steps] == pytest.approx([row.gradient_norm for row in ramped[0]], rel=1e-4)
    assert [(row.loss, row.gradient_norm, row.stream_digest) for row in ramped[0][:2]] == [
        (row.loss, row.gradient_norm, row.stream_digest) for row in small
    ]


@pytest.mark.parametrize(("workers", "stage"), RUNS[1:])
def test_workers_and_stages_take_the_same_steps(folder: Path, workers: int, stage: int) -> None:
    for step in (1, 4):
        expected, found = (tensors(folder / name, step) for name in ("1-0", f"{workers}-{stage}"))
        assert {kind for kind, _ in found} == {"weight", "momentum", "exp_avg", "exp_avg_sq", "ema"}
        assert largest_difference(found, expected) < ROUNDING


def test_a_resume_on_other_workers_and_stage_continues(folder: Path) -> None:
    assert find_checkpoint(CheckpointStore(folder / "moved").path(4))[1].world_size == 1
    assert largest_difference(tensors(folder / "moved", 4), tensors(folder / "4-2", 4)) < ROUNDING


def test_an_offloaded_optimizer_takes_the_same_steps(folder: Path) -> None:
    assert largest_difference(tensors(folder / "offloaded", 2), tensors(folder / "1-0", 2)) < ROUNDING


def average_of(run_dir: Path, average: Tensors, steps: range) -> Tensors:
    """Return what an average is after some steps, by the weights that were saved at each."""
    for step, tokens in [(1, 256), (2, 256), (3, 512), (4, 512)]:
        if step in steps:
            share = 0.5 ** (tokens / HALF_LIFE)
            after = tensors(run_dir, step, "weight")
            average = {key: share * tensor.double() + (1 - share) * after[key] for key, tensor in average.items()}
    return average


def averages(run_dir: Path, step: int) -> Tensors:
    return {("weight", name): tensor for (_, name), tensor in tensors(run_dir, step, "ema").items()}


@pytest.mark.parametrize("name", ["1-0", "2-0", "2-1", "2-2", "2-3", "4-2", "moved", "offloaded"])
def test_the_average_is_that_of_the_saved_weights(folder: Path, name: str) -> None:
    last = 2 if name == "offloaded" else 4
    config = load_config(folder / "tiny.yaml", SETTINGS).config
    model = Decoder(config.model, config.execution, "math")
    model.initialise(config.seed)
    begin = {("weight", key): weight.detach() for key, weight in model.named_parameters()}
    source = folder / "4-2" if name == "moved" else folder / name
    expected = average_of(source, begin, range(1, last + 1))
    found = averages(folder / name, last)
    assert largest_difference(found, expected) < (ROUNDING if name == "moved" else 1e-6)
    assert largest_difference(found, tensors(folder / name, last, "weight")) > 1e-4


def test_an_average_begins_where_it_is_asked_for(folder: Path) -> None:
    run_dir = folder / "late"
    expected = average_of(run_dir, tensors(run_dir, 1, "weight"), range(2, 3))
    assert largest_difference(averages(run_dir, 2), expected) < 1e-6
    assert '"change": "begun"' in (run_dir / "events.jsonl").read_text()
    with pytest.raises(CheckpointError, match="without a moving average"):
        chosen_weights(open_weights(CheckpointStore(run_dir).path(1)), "ema")


def test_both_losses_are_told_and_are_those_of_the_chosen_weights(folder: Path) -> None:
    for step in (2, 4):
        expected = {}
        for which, metric in (("raw", "loss"), ("ema", "ema_loss")):
            trained = load_checkpoint(CheckpointStore(folder / "1-0").path(step), weights=which)
            (expected[metric],) = (score.value for score in evaluate(trained, ["loss"]) if score.metric == "loss")
        assert abs(expected["loss"] - expected["ema_loss"]) > 1e-4
        for name in (f"{workers}-{stage}" for workers, stage in RUNS):
            found = {row.metric: row.value for row in read_scores(folder / name) if row.step == step}
            assert {metric: found[metric] for metric in expected} == pytest.approx(expected, rel=1e-6)
            assert "ema_unigram_entropy" not in found


@pytest.mark.parametrize(("workers", "stage"), RUNS)
def test_every_matrix_is_orthogonalised_once_and_work_is_divided(folder: Path, workers: int, stage: int) -> None:
    logs = [folder / f"{workers}-{stage}" / f"orthogonalized-{rank}.jsonl" for rank in range(workers)]
    steps = list(zip(*([int(line) for line in log.read_text().split()] for log in logs), strict=True))
    assert len(steps) == 4
    for counts in steps:
        assert sum(counts) == NUM_MATRICES
        assert max(counts) <= NUM_MATRICES / workers + 7  # whole weights, of which a projection has 7 parts
        assert min(counts) > 0


def largest_and_median_singular_values(recipe: Path, run_dir: Path) -> list[tuple[float, float]]:
    """Return those of the second step's updates of all parts, by the scale that Muon gives them."""
    config = load_config(recipe, SETTINGS).config
    fused, rate = row_parts(Decoder(config.model, config.execution, "math")), config.optimizer.learning_rate
    before, after = (tensors(run_dir, step, "weight") for step in (1, 2))
    found = []
    for (_, name), weight in after.items():
        if is_hidden(name, weight.shape):
            update = ((1 - rate * config.optimizer.weight_decay) * before["weight", name] - weight) / rate
            for part in [p.of(update).flatten(0, 1) for p in fused[name].values()] if name in fused else [update]:
                values = torch.linalg.svdvals(part.double()) / (0.2 * math.sqrt(max(part.shape)))
                found.append((values.max().item(), values.median().item()))
    assert len(found) == NUM_MATRICES
    return found


def test_updates_are_orthogonal_and_plain_gradients_would_be_noticed(folder: Path) -> None:
    for name in ("1-0", "2-1", "2-2", "4-2"):
        for largest, median in largest_and_median_singular_values(folder / "tiny.yaml", folder / name):
            assert largest < 1.22
            assert median > 0.5
    planted = largest_and_median_singular_values(folder / "tiny.yaml", folder / "sgd")
    assert sum(median < 0.3 for _, median in planted) > NUM_MATRICES / 2


def test_a_run_changes_its_optimizer_when_asked(folder: Path) -> None:
    found = tensors(folder / "changed", 4)
    assert {kind for kind, name in found if is_hidden(name, found["weight", name].shape)} == {
        "weight",
        "momentum",
        "ema",
    }
    assert ("exp_avg", "embedding.weight") in found
    (event,) = (
        line
        for line in map(json.loads, (folder / "changed" / "events.jsonl").read_text().splitlines())
        if line["event"] == "optimizer_replaced"
    )
    assert (event["before"], event["after"], event["step"]) == ("adamw", "muon", 2)
    assert event["lost"] == "exp_avg of 8 weights, exp_avg_sq of 8 weights"


def test_every_form_keeps_the_states(folder: Path, tmp_path: Path) -> None:
    saved = tensors(folder / "2-2", 4)
    convert(folder / "2-2", tmp_path / "plain", "safetensors")
    convert(tmp_path / "plain", tmp_path / "native", "native")
    convert(tmp_path / "native", tmp_path / "universal", "deepspeed-universal")
    for name in ("plain", "native", "universal"):
        weights = open_weights(tmp_path / name)
        assert all(torch.equal(weights.read(key, kind), tensor) for (kind, key), tensor in saved.items())
        assert {(kind, name) for name, kinds in weights.optimizer_states.items() for kind in ("weight", *kinds)} == set(
            saved
        )
    counts = {path.parent.name for path in (tmp_path / "universal").glob("*/zero/*/step.pt")}
    assert counts == {name for kind, name in saved if kind == "exp_avg"}
    convert(tmp_path / "plain", tmp_path / "ema", "native", which="ema")
    assert not open_weights(tmp_path / "ema").optimizer_states
    assert all(torch.equal(open_weights(tmp_path / "ema").read(n), t) for (k, n), t in saved.items() if k == "ema")
    average([folder / "2-2", folder / "2-1"], tmp_path / "mean")
    assert not open_weights(tmp_path / "mean").optimizer_states
    found = list(differences(open_weights(folder / "1-0"), open_weights(folder / "2-2")))
    assert all(difference.largest is not None and difference.largest < ROUNDING for difference in found)
