"""What ZeRO keeps on a device besides activations: weights, master copies, optimizer states, gradients, buffers.

Read off DeepSpeed 0.19 by following the allocations of real steps, with fp32 parameters (mixed precision is autocast)
and AdamW fused. P parameters, S elements of the optimizer's states (AdamW: 2 P), W workers, 4 bytes each; "bucket" is
REDUCE_BUCKET_ELEMENTS, whatever the model's size.

    stage                 0        1              2                    3
    weights               P        P              P                    P/W
    master copies         -        P/W            P/W                  P/W
    optimizer states      S        S/W            S/W                  S/W
    gradient partition    -        -              -                    P/W
    bucket                -        backward pass  backward pass        always
    gradients             P        P              P, then P/W          those not yet reduced, and a copy of them
    gathered weights      -        -              -                    P during a pass, for W > 1
    optimizer step        -        2 P/W          2 P/W                P/W

An optimizer that needs whole matrices (Muon) exchanges them in its step, up to MATRIX_BUCKET_ELEMENTS at a
time: pieces, what is sent and received of them, and the matrices.

Of the gathered weights, no more than 10^9 parameters' are there at a time if they are gathered again for the backward
pass (`execution.reshard_after_forward`). Under stage 1 bucket and gradients stay from the first micro-step to the last.

With the optimizer offloaded, master copies, states and the gradient partition are on the host, and the step takes
place there; that is read off DeepSpeed's code, not followed.
"""

from dataclasses import dataclass

from sisa_scale.config.execution import GATHERED_PARAMS, MATRIX_BUCKET_ELEMENTS, REDUCE_BUCKET_ELEMENTS

FP32_BYTES = 4
UNPARTITIONED_BUCKET_ELEMENTS = 500_000_000  # of stage 0, where DeepSpeed has no setting for it

Terms = dict[str, int]


@dataclass(frozen=True, slots=True)
class ZeroStates:
    """The states of one worker in bytes, by term."""

    params: int
    stage: int
    workers: int
    accumulation_steps: int
    state_elements: int
    matrix_elements: int = 0  # that are updated as whole matrices
    is_offloaded: bool = False
    is_resharded: bool = True

    @property
    def persistent(self) -> Terms:
        """What is there at all times once the first step is taken."""
        whole, part = self._whole, self._part
        if self.stage == 0:
            return {"weights": whole, "optimizer states": self._states}
        terms = {"weights": part if self.stage == 3 else whole}
        if not self.is_offloaded:
            terms |= {"master copies": part, "optimizer states": self._states}
        if self.stage == 3:
            own = 0 if self.is_offloaded else part
            terms |= {"gradients": own, "communication buffers": FP32_BYTES * REDUCE_BUCKET_ELEMENTS}
        return terms

    @property
    def on_host(self) -> int:
        """Bytes in the memory of the host: masters, optimizer states and gradients."""
        return 2 * self._part + self._states if self.is_offloaded else 0

    @property
    def forward(self) -> Terms:
        """What a forward pass finds besides: that of the last micro-step, which has the most."""
        if self.stage == 3:
            return {"gathered weights": self._gathered}
        if self.accumulation_steps == 1:
            return {}
        if self.stage == 1:
            return {"gradients": self._whole, "communication buffers": FP32_BYTES * REDUCE_BUCKET_ELEMENTS}
        return {"gradients": self._whole if self.stage == 0 else 0 if self.is_offloaded else self._part}

    def backward(self, params_done: int) -> Terms:
        """What is there in a backward pass when the gradients of so many parameters are made."""
        done = FP32_BYTES * params_done
        if self.stage == 3:
            # They wait until a bucket is full, and are flattened when it is reduced.
            waiting = min(done, FP32_BYTES * REDUCE_BUCKET_ELEMENTS)
            is_reduced = params_done >= min(self.params, REDUCE_BUCKET_ELEMENTS)
            return {"gathered weights": self._gathered, "gradients": waiting * (2 if is_reduced else 1)}
        if self.stage == 0:
            is_reduced = params_done >= self.params
            copy = min(self._whole, FP32_BYTES * UNPARTITIONED_BUCKET_ELEMENTS) if is_reduced else 0
            return {"gradients": done if self.accumulation_steps == 1 else self._whole, "communication buffers": copy}
        carried = 0 if self.accumulation_steps == 1 or self.is_offloaded else self._part
        gradients = done + carried if self.stage == 2 else done if self.accumulation_steps == 1 else self._whole
        return {"gradients": gradients, "communication buffers": FP32_BYTES * REDUCE_BUCKET_ELEMENTS}

    @property
    def update(self) -> Terms:
        """What the optimizer's step finds besides."""
        matrices = {"whole matrices": FP32_BYTES * self._exchanged} if self._exchanged else {}
        if self.is_offloaded:
            return matrices
        return {"gradients": (self._whole, 2 * self._part, 2 * self._part, self._part)[self.stage]} | matrices

    @property
    def _exchanged(self) -> int:
        """Elements of what `training.optimizers.matrix_exchange` holds at most, its pieces on the host left out."""
        bucket = min(self.matrix_elements, MATRIX_BUCKET_ELEMENTS)
        own = -(-bucket // self.workers)
        pieces = bucket if self.stage == 0 else min(bucket, -(-self.matrix_elements // self.workers))
        if self.workers == 1:
            return (2 if self.is_offloaded else 3) * bucket
        if self.stage == 0:
            return max(pieces + 3 * own, own + 2 * bucket)
        return (1 if self.is_offloaded else 2) * pieces + 2 * own

    @property
    def _whole(self) -> int:
        return FP32_BYTES * self.params

    @property
    def _part(self) -> int:
        return FP32_BYTES * -(-self.params // self.workers)

    @property
    def _states(self) -> int:
        """Bytes of the optimizer's states on a worker."""
        return FP32_BYTES * (self.state_elements if self.stage == 0 else -(-self.state_elements // self.workers))

    @property
    def _gathered(self) -> int:
        if self.workers == 1:
            return 0
        return FP32_BYTES * min(self.params, GATHERED_PARAMS) if self.is_resharded else self._whole


def joined(*terms: Terms) -> Terms:
    """Return the sums of terms of equal name, those of 0 left out."""
    names = dict.fromkeys(name for part in terms for name in part)
    sums = {name: sum(part.get(name, 0) for part in terms) for name in names}
    return {name: size for name, size in sums.items() if size}
