"""A trial of a study: one run with a directory of its own, and what it takes over from another.

A `trunk` is the longest run of its architecture, size and seed. A `branch` is a shorter run that begins as a copy of
the trunk at step `branch_step`, where its own cooldown begins. A `run` shares nothing. A `tuning` trial is a run that
helps to choose a learning rate; the others are `untuned` until it is chosen.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.models.sizing import ParameterCounts, count_parameters
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.twins import Match

Role = Literal["trunk", "branch", "run", "tuning"]
_DECISIVE = ("seed", "model", "data", "optimizer", "schedule", "evaluation")
# Settings that came later, with the value that was the only one before: there they are left out of the hash, so that a
# study planned earlier is still the same.
_LATER: dict[tuple[str, str], Any] = {
    ("optimizer", "kind"): "adamw",
    ("evaluation", "context_multiples"): [0.25, 0.5, 1.0, 2.0, 4.0, 8.0],
    ("evaluation", "at_start"): False,
    ("evaluation", "samples"): [],
    ("evaluation", "sample_tokens"): 64,
    ("optimizer", "ema_half_life_tokens"): None,
    ("data", "global_batch_ramp"): [],
}
PARAMS_CONVENTION = "all parameters, the tied head counted once"


@dataclass(frozen=True)
class Trial:
    """One run. recipe, overrides: what its config is resolved from; budget_flops: its isoFLOP level, if it has one.

    is_untuned: its learning rate waits for tuning trials; the one of its config is a rate of the sweep in its place.
    """

    name: str
    architecture: str
    size: str
    seed: int
    role: Role
    trunk: str
    branch_step: int
    recipe: str
    overrides: tuple[str, ...]
    config: RunConfig
    budget_flops: float | None
    match: Match | None
    is_untuned: bool = False

    @property
    def directory(self) -> Path:
        """Its run directory."""
        return self.config.directory

    @property
    def tokens(self) -> int:
        """Tokens that its model has been trained on, those of its trunk included."""
        return self.config.total_tokens

    @cached_property
    def counts(self) -> ParameterCounts:
        """Parameters by group."""
        return count_parameters(self.config.model)

    @cached_property
    def train_flops(self) -> float:
        """FLOPs of the training of its model, those of its trunk included."""
        return flops_per_token(self.config.model, self.config.data.sequence_tokens).train * self.tokens

    @property
    def own_flops(self) -> float:
        """FLOPs that the trial itself takes."""
        return self.train_flops * (1 - self.config.data.batches.tokens_before(self.branch_step) / self.tokens)

    @property
    def workers(self) -> int:
        """Workers of the run."""
        return self.config.resources.workers

    @property
    def config_sha256(self) -> str:
        """Hash of what decides the result: not of how and where it is computed."""
        plain = to_plain(self.config)
        for (section, key), before in _LATER.items():
            if plain[section][key] == before:
                del plain[section][key]
        return hashlib.sha256(json.dumps({key: plain[key] for key in _DECISIVE}, sort_keys=True).encode()).hexdigest()

    def to_plain(self) -> dict[str, Any]:
        """Return what plan.json says of it; what hangs on a rate that is not tuned yet is None."""
        match, rate = self.match, "optimizer.learning_rate="
        return {
            "name": self.name,
            "architecture": self.architecture,
            "size": self.size,
            "seed": self.seed,
            "role": self.role,
            "trunk": self.trunk,
            "branch_step": self.branch_step,
            "run_dir": str(self.directory),
            "recipe": self.recipe,
            "overrides": [one for one in self.overrides if not (self.is_untuned and one.startswith(rate))],
            "config_sha256": None if self.is_untuned else self.config_sha256,
            "params_scaling": self.counts.total,
            "params_nonembedding": self.counts.nonembedding,
            "d_ff": self.config.model.d_ff,
            "learning_rate": None if self.is_untuned else self.config.optimizer.learning_rate,
            "total_steps": self.config.total_steps,
            "tokens": self.tokens,
            "train_flops": self.train_flops,
            "own_flops": self.own_flops,
            "budget_flops": self.budget_flops,
            "matched": match.quantity if match else None,
            "relative_difference": match.relative_difference if match else None,
        }
