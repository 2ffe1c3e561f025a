"""Ranks that count the matrices they orthogonalise: a line for every step of a run, in orthogonalized-RANK.jsonl.

Argument: as for worker_program.py; the action `sgd` trains with an update that is not orthogonalised at all.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from sisa_scale.config import load_config
from sisa_scale.launching.start import with_absolute_paths
from sisa_scale.training.engine.communicator import leave
from sisa_scale.training.engine.engine import Engine
from sisa_scale.training.optimizers import muon
from sisa_scale.training.worker import work

real_step, real_function = Engine.step, muon.orthogonalized
found: list[Tensor] = []
actions: list[str] = []


def counted(matrix: Tensor, steps: int) -> Tensor:
    """Return what the real function does, or the gradient alone."""
    found.append(matrix)
    return matrix / matrix.norm() if actions[-1] == "sgd" else real_function(matrix, steps)


def noted(self: Engine, *arguments: Any) -> Any:
    """Take the real step, and write down what was counted in it."""
    found.clear()
    result = real_step(self, *arguments)
    with (Path(self.config.directory) / f"orthogonalized-{os.environ['RANK']}.jsonl").open("a") as file:
        file.write(f"{len(found)}\n")
    return result


setattr(muon, "orthogonalized", counted)  # noqa: B010
setattr(Engine, "step", noted)  # noqa: B010
for action, recipe, overrides in json.loads(sys.argv[1]):
    actions.append(action)
    resolved = with_absolute_paths(load_config(recipe, overrides).config)
    resolved.directory.mkdir(parents=True, exist_ok=True)
    work(resolved, "cpu")
leave()
