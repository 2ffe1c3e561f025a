"""Where a run stands, and what one step reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainState:
    """Finished optimizer steps and the tokens they consumed: the cursor of the run.

    A skipped step is finished and its tokens are consumed; `skipped_steps` of the steps changed no weight.
    """

    step: int = 0
    tokens: int = 0
    skipped_steps: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an optimizer step was not taken.

    measure: "loss" or "gradient_norm"; threshold: what it had to stay below, or None where it was not finite.
    """

    measure: str
    value: float
    threshold: float | None

    def __str__(self) -> str:
        if self.threshold is None:
            return f"{self.measure} {self.value} is not finite"
        return f"{self.measure} {self.value:.6g} is above {self.threshold:.6g}"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, the same on every worker but for micro_losses.

    data_step: which global batch of the stream it was, from 0; stream_digest identifies its tokens in any world size.
    wait_seconds is the time without data. is_save_due: by the main worker's clock.
    refusal: why no weight was changed, or None. micro_losses: this worker's.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    num_tokens: int
    data_step: int
    stream_digest: str
    step_seconds: float
    wait_seconds: float
    is_last: bool
    stop_requested: bool
    is_preempted: bool = False
    is_save_due: bool = False
    profile_requested: bool = False
    refusal: Refusal | None = None
    micro_losses: tuple[float, ...] = ()
