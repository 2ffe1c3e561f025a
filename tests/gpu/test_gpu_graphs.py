"""Blocks as CUDA graphs on a real GPU: replayed in every pass, and they compute what the same kernels do alone."""

from pathlib import Path

import pytest
import torch
from processes import first_error, run_program
from zoo import TINY

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LAYERS, MICRO_STEPS = 4, 2


def replays_and_losses(name: str, *settings: str) -> list[tuple[int, list[float]]]:
    """Return both without graphs and with them."""
    sizes = [
        "sequence_tokens=64",
        "global_batch_tokens=256",
        "micro_batch_sequences=2",
        "loss_chunk_tokens=64",
        "resources.workers=1",
    ]
    done = run_program(1, Path(__file__).with_name("graphs_program.py"), name, *sizes, *settings)
    assert done.returncode == 0, first_error(done.stderr)
    found = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    parts = [part.split(": ") for part in found.removeprefix("FOUND ").split("|")]
    return [(int(replays), [float(loss) for loss in losses.split()]) for replays, losses in parts]


def check(name: str, *settings: str) -> None:
    (plain_replays, plain), (replays, captured) = replays_and_losses(name, *settings)
    assert (plain_replays, replays) == (0, 2 * LAYERS * MICRO_STEPS)
    assert plain[-1] < plain[0] - 0.3  # six steps are enough to learn which tokens occur
    assert captured == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_graphs_train_as_kernels_alone_do(name: str) -> None:
    check(name, "zero_stage=1", "precision=fp32", "activation_checkpointing=none")


@pytest.mark.parametrize("stage", [0, 2])
def test_under_other_stages(stage: int) -> None:
    check("pattern", f"zero_stage={stage}", "precision=fp32", "activation_checkpointing=none")


def test_with_recomputation_in_bf16() -> None:
    check("sisa", "zero_stage=1", "precision=bf16", "activation_checkpointing=full")
