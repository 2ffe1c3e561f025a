"""Sections `optimizer` and `schedule`: how weights are updated, and the learning rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.duration import Duration
from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.optimizers.spec import OptimizerSpec
from sisa_scale.config.optimizers.table import OPTIMIZERS


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Weight decay acts on matrices only: never on norms, biases or lambda."""

    kind: str = setting(
        "optimizer; muon acts on the matrices of hidden layers, with AdamW on all other weights", default="adamw"
    )
    replaces: str | None = setting(
        "at a resume that changes the optimizer: the kind before; states that the new kind lacks are given up; null "
        "refuses a change",
        default=None,
    )
    learning_rate: float = setting("peak learning rate", above=0.0)
    beta1: float = setting("decay of the first moment", default=0.9, minimum=0.0, maximum=0.99999)
    beta2: float = setting("decay of the second moment", default=0.95, minimum=0.0, maximum=0.99999)
    epsilon: float = setting("added to the root of the second moment", default=1e-8, above=0.0)
    weight_decay: float = setting("decoupled weight decay of matrices", default=0.1, minimum=0.0)
    momentum: float = setting("muon: decay of the momentum", default=0.95, minimum=0.0, maximum=0.99999)
    nesterov: bool = setting("muon: Nesterov's momentum, which looks one gradient ahead", default=True)
    newton_schulz_steps: int = setting(
        "muon: steps of the iteration that orthogonalises a matrix", default=5, minimum=1, maximum=20
    )
    gradient_clip_norm: float = setting("largest global gradient norm; 0 turns clipping off", default=1.0, minimum=0.0)
    lambda_learning_rate_scale: float = setting(
        "learning rate of SISA's lambda relative to the rest (the paper's 0.1)", default=0.1, minimum=0.0
    )

    ema_half_life_tokens: float | None = setting(
        "keep an exponential moving average of the weights, in which a weight's share halves every so many tokens of "
        "training; null keeps none",
        default=None,
        above=0.0,
    )

    @property
    def spec(self) -> OptimizerSpec:
        """The description of the optimizer, with the average of the weights if there is one."""
        spec = OPTIMIZERS[self.kind]
        return spec if self.ema_half_life_tokens is None else spec.with_average()

    def average_decay(self, tokens: int) -> float:
        """Return the share of the average that is left after a step of so many tokens."""
        return 1.0 if self.ema_half_life_tokens is None else 0.5 ** (tokens / self.ema_half_life_tokens)

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if self.kind not in OPTIMIZERS:
            yield Violation("kind", self.kind, f"must be one of {', '.join(OPTIMIZERS)}", "Choose one of them.")
        if self.replaces is not None and self.replaces not in OPTIMIZERS:
            allowed = f"must be one of {', '.join(OPTIMIZERS)}, or null"
            yield Violation("replaces", self.replaces, allowed, "Write the kind that the run was begun with.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Linear warm-up, then one of four shapes, all in steps or tokens."""

    kind: Literal["wsd", "cosine", "linear", "inverse_sqrt"] = setting(
        "shape after the warm-up. wsd: stable, then the final decay; cosine and linear: down to the end of the run; "
        "inverse_sqrt: with 1 / sqrt(step), which no length of the run enters, then the final decay, if there is one"
    )
    total: Duration = setting("length of the run, such as '9536 steps' or '5e9 tokens'")
    warmup: Duration = setting("linear warm-up from 0", default=Duration(0, "steps"))
    decay: Duration = setting(
        "final linear decay of wsd and inverse_sqrt; unused by the others", default=Duration(0, "steps")
    )
    final_fraction: float = setting(
        "learning rate at the end as a fraction of the peak; inverse_sqrt without a decay does not read it",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
    )

    @property
    def has_final_decay(self) -> bool:
        """Whether `decay` is read."""
        return self.kind in ("wsd", "inverse_sqrt")
