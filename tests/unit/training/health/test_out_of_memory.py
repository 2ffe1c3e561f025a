"""What is said when a GPU's memory runs out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sisa_scale.config.loading.load import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import TrainingError
from sisa_scale.planning.memory.estimate import MemoryPlan
from sisa_scale.training.health import out_of_memory as words
from sisa_scale.training.health.heart import Heart

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 1.2 GiB is free. "
    "Of the allocated memory 77 GiB is allocated by PyTorch."
)
PLAN = MemoryPlan(
    "backward of block 11",
    {
        "weights": 600_000_000,
        "optimizer states": 1_200_000_000,
        "activations": 60_000_000_000,
        "gathered weights": 10**9,
    },
    {"CUDA context": 500_000_000},
    "cudnn",
)


def config_of(*overrides: str) -> RunConfig:
    return load_config("quickstart", list(overrides)).config


def test_it_says_what_was_held_what_was_planned_and_what_to_change(tmp_path: Path) -> None:
    held = {"weights": 600_000_000, "gradients": 600_000_000, words.REST: 75_000_000_000}
    snapshot = tmp_path / "out_of_memory_3.pickle"
    config = config_of("micro_batch_sequences=4", "activation_checkpointing=none")
    error = words.memory_error(3, 17, SAID, config, held, PLAN, snapshot)
    assert isinstance(error, TrainingError)
    (problem,) = error.problems
    assert problem.where == "rank 3, step 17"
    assert "CUDA out of memory" in problem.found
    assert f"{words.REST} 75.0 GB, weights 0.6 GB, gradients 0.6 GB" in problem.found
    assert f"planned were 62.8 GB at the peak (backward of block 11): {words.REST} 61.0 GB" in problem.allowed
    assert "optimizer states 1.2 GB" in problem.allowed
    assert "0.5 GB outside of tensors" in problem.allowed
    assert "execution.micro_batch_sequences=2; execution.activation_checkpointing=selective" in problem.remedy
    assert str(snapshot) in problem.remedy


def test_every_change_that_is_named_can_be_made() -> None:
    for overrides in (
        ("micro_batch_sequences=4", "activation_checkpointing=selective"),
        ("micro_batch_sequences=1", "activation_checkpointing=3"),
        ("zero_stage=0",),
        ("workers=2", "micro_batch_sequences=2", "zero_stage=2", "offload_optimizer=true"),
    ):
        config = config_of(*overrides)
        for change in words.changes(config):
            after = config_of(*overrides, change)
            assert after.execution != config.execution
            assert after.data == config.data
    named = words.changes(config_of("workers=2", "micro_batch_sequences=2", "zero_stage=2", "offload_optimizer=true"))
    assert "execution.zero_stage=3" in named
    assert not [change for change in named if "offload" in change]


def test_terms_are_what_tensors_really_hold() -> None:
    model = nn.Linear(64, 32, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    weights = 4 * 64 * 32
    held = words.held_bytes(model, optimizer, torch.device("cpu"), weights + 1000)
    assert held == {"weights": weights, words.REST: 1000}
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    held = words.held_bytes(model, optimizer, torch.device("cpu"), 10 * weights)
    assert held["gradients"] == held["weights"] == weights
    assert 2 * weights <= held["optimizer states"] <= 2 * weights + 64
    assert "master copies" not in held  # the optimizer has the weights themselves
    assert sum(held.values()) == 10 * weights


@pytest.mark.parametrize("has_gained", [False, True])
def test_a_forced_error_is_explained_whatever_fails(
    has_gained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the run where the attempt had taken no new step; else the workers may start again."""

    def fail(*_arguments: Any) -> None:
        raise RuntimeError("no trace")

    monkeypatch.setattr(words, "plan_memory", fail)
    workers = SimpleNamespace(rank=1, device=torch.device("cpu"))
    directory = SimpleNamespace(path=tmp_path, has_gained=lambda: has_gained)
    run: Any = SimpleNamespace(workers=workers, config=config_of(), directory=directory, heart=Heart())
    with run.heart.phase("step", 9), pytest.raises((TrainingError, torch.OutOfMemoryError)) as raised:
        words.raise_explained(run, torch.OutOfMemoryError(SAID))
    assert raised.type is (torch.OutOfMemoryError if has_gained else TrainingError)
    told = raised.value.__notes__[0] if has_gained else str(raised.value)
    assert told.startswith("rank 1, step 9: found no memory left on the GPU (CUDA out of memory)")
    assert "could not be made" in told
    assert "then resume" in told
    assert "memory_viz" not in told
    assert not list(tmp_path.iterdir())
