"""What all workers agree on before the weights of a step change: one sum over a few numbers."""

import math
from pathlib import Path

import torch

from sisa_scale.data.read.stream import DIGEST_MODULUS
from sisa_scale.runs.owner import Fence
from sisa_scale.runs.stop_request import Reason, StopRequest, asked_to_stop
from sisa_scale.training.engine.communicator import Communicator
from sisa_scale.training.health.guard import NumericalGuard

_HALF_BITS = 31  # a digest is summed in two halves, each exact in float64 up to 2**22 workers


def asked_together(workers: Communicator, stop_path: Path) -> Reason | None:
    """Return why any of the workers was asked to stop, the same on all; None if none was."""
    requests = workers.gather(asked_to_stop(stop_path if workers.is_main else None))
    reasons = {request.reason for request in requests if request is not None}
    if not reasons:
        return None
    return "preemption" if "preemption" in reasons else "interrupt"


class StepVote:
    """The vote of one step. Called with this worker's numbers it fills the attributes, the same on all workers.

    stop: what this worker was asked, if anything. is_save_due: by the main worker's clock. is_profile_asked: the main
    worker has found a request to look into the next steps. fence: of the main worker, looked at when the vote is
    called.
    """

    def __init__(
        self,
        workers: Communicator,
        guard: NumericalGuard,
        step: int,
        digest: int,
        stop: StopRequest | None,
        fence: Fence | None = None,
        *,
        is_save_due: bool = False,
        is_profile_asked: bool = False,
    ) -> None:
        self._workers, self._guard, self._step, self._digest, self._stop = workers, guard, step, digest, stop
        self._fence, self._asked = fence, [is_save_due, is_profile_asked]

    def __call__(self, loss: float, gradient_norm: float) -> bool:
        """Return whether the step is to be taken.

        loss: this worker's mean in nats; gradient_norm: of the global batch, already the same on all workers. The
        others repeat only whether it is finite, so that the sum is the main worker's number to the last bit.
        """
        if not self._workers.is_main:
            gradient_norm = 0.0 if math.isfinite(gradient_norm) else math.nan
        halves = [self._digest >> _HALF_BITS, self._digest & ((1 << _HALF_BITS) - 1)]
        stop = [self._stop is not None, self._stop is not None and self._stop.reason == "preemption"]
        fenced = [self._fence is not None and self._fence.error is not None]
        values = torch.tensor([loss, gradient_norm, *halves, *stop, *fenced, *self._asked], dtype=torch.float64)
        said = self._workers.sum(values).tolist()
        self.loss, self.gradient_norm = said[0] / self._workers.world_size, said[1]
        digest = ((int(said[2]) << _HALF_BITS) + int(said[3])) % DIGEST_MODULUS
        self.stream_digest = f"{digest:016x}"
        self.stop_requested, self.is_preempted, self.is_fenced = bool(said[4]), bool(said[5]), bool(said[6])
        self.is_save_due, self.profile_requested = bool(said[7]), bool(said[8])
        self.refusal = self._guard.judge(self._step, self.loss, self.gradient_norm)
        return self.refusal is None
