"""DeepSpeed's universal checkpoint: one folder a parameter, which DeepSpeed loads at any world size.

    latest_universal                              names the folder of the step
    global_step12_universal/
        mp_rank_00_model_states.pt                step counts; no weights (under stage 3 read from zero_pp_rank_0_...)
        zero/optimizer_state.pt                   hyper-parameters of the optimizer
        zero/NAME/fp32.pt exp_avg.pt exp_avg_sq.pt step.pt     of AdamW; the states have their names in torch
    sisa_scale.json                               the model and its origin, which DeepSpeed does not read

DeepSpeed loads it with `{"checkpoint": {"load_universal": true}}` into ZeRO stages 1, 2 and 3: unlike what its own
converter writes, it holds what every stage asks for (DeepSpeed 0.19, runtime/base_optimizer.py and zero/stage3.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.conversion.forms.json_files import read_json
from sisa_scale.conversion.weights import (
    Description,
    Weights,
    checked,
)
from sisa_scale.errors import CheckpointError
from sisa_scale.files import write_json, write_text
from sisa_scale.models.meta import parameter_shapes
from sisa_scale.training.schedule import LearningRateSchedule

LATEST = "latest_universal"
DESCRIPTION = "sisa_scale.json"
# Hyper-parameters are paired with a reader's parameter groups by position: as many entries as anyone has groups.
_MOST_GROUPS = 64
# The oldest layout that DeepSpeed still reads as of today; ours does not depend on a release.
_DEEPSPEED_VERSION = "0.19.8"


class UniversalWeights:
    """A directory that `write_universal` wrote."""

    def __init__(self, path: Path) -> None:
        """Read the description; raises CheckpointError when a parameter of the model is missing."""
        self.path = path
        self.description = Description.from_json(read_json(path / DESCRIPTION), path / DESCRIPTION)
        self.shapes = parameter_shapes(self.description.run)
        self.optimizer_states = self.description.run.optimizer.spec.stored_states(self.shapes)
        self._folder = path / _folder(self.description.step) / "zero"
        for name, states in self.optimizer_states.items():
            for kind in (WEIGHT, *states):
                if not self._path(name, kind).is_file():
                    raise _damaged(self._path(name, kind), "no such file")

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one tensor."""
        path = self._path(name, kind)
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
            tensor = content["param"]
        except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        if not isinstance(tensor, Tensor):
            raise _damaged(path, f"a {type(tensor).__name__}")
        return checked(path, f"{kind} of {name}", tensor, self.shapes[name])

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / name / _file(kind)


def write_universal(directory: Path, weights: Weights, advance: Callable[[int], None]) -> None:
    """Write weights and states, one tensor in memory at a time; raises CheckpointError without states."""
    origin = weights.description
    if not weights.optimizer_states:
        raise CheckpointError.at(
            origin.origin,
            found="weights without the optimizer's states",
            allowed="a universal checkpoint goes on with a training run, and holds them",
            remedy="Convert a checkpoint of the run itself, or use --to safetensors.",
        )
    folder, spec = directory / _folder(origin.step), origin.run.optimizer.spec
    steps = torch.tensor(float(origin.step - origin.skipped_steps))
    for name in weights.shapes:
        place = folder / "zero" / name
        place.mkdir(parents=True)
        for kind in (WEIGHT, *weights.optimizer_states[name]):
            tensor = weights.read(name, kind)
            torch.save({"param": tensor}, place / _file(kind))
            advance(tensor.numel() * tensor.element_size())
        for count in spec.group(name, weights.shapes[name]).counts:
            torch.save(steps, place / _file(count))
    torch.save(_optimizer_state(weights, steps), folder / "zero" / "optimizer_state.pt")
    for prefix in ("", "zero_pp_rank_0_"):
        torch.save(_model_state(weights), folder / f"{prefix}mp_rank_00_model_states.pt")
    write_json(directory / DESCRIPTION, origin.to_json())
    write_text(directory / LATEST, folder.name)


def _optimizer_state(weights: Weights, steps: Tensor) -> dict[str, Any]:
    run = weights.description.run
    optimizer = run.optimizer
    # No weight decay: each group of the reader keeps its own (stage 3 gives the first entry to all of them).
    group = {
        "lr": LearningRateSchedule(run).learning_rate(weights.description.step),
        **optimizer.spec.hyperparameters(optimizer),
        "params": [],
    }
    groups = [dict(group) for _ in range(_MOST_GROUPS)]
    return {
        "ds_version": _DEEPSPEED_VERSION,
        "clip_grad": optimizer.gradient_clip_norm,
        "param_groups": groups,
        "optimizer_state_dict": {
            "state": {0: dict.fromkeys(optimizer.spec.count_names, steps)},
            "param_groups": groups,
        },
    }


def _model_state(weights: Weights) -> dict[str, Any]:
    origin = weights.description
    return {
        "module": {},
        "lr_scheduler": None,
        "global_steps": origin.step,
        "global_samples": origin.run.data.batches.sequences_before(origin.step),
        "skipped_steps": origin.skipped_steps,
        "dp_world_size": 1,
        "mp_world_size": 1,
        "ds_version": _DEEPSPEED_VERSION,
        "tokens": origin.tokens,
        "data_fingerprint": origin.data_fingerprint,
    }


def _file(kind: str) -> str:
    return f"{'fp32' if kind == WEIGHT else kind}.pt"


def _folder(step: int) -> str:
    return f"global_step{step}_universal"


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError.at(
        path,
        found=found,
        allowed="a file of a universal checkpoint that `sisa-scale convert` wrote",
        remedy="Convert it again from its origin.",
    )
