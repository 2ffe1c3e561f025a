"""Where the time of profiled steps went: kernels by kind, and the longest. On a CPU operators take their place."""

from dataclasses import dataclass
from typing import Any

KINDS = {
    "attention": ("cudnn_generated", "sdpa", "flash", "fmha", "efficient_attention", "scaled_dot_product"),
    "communication": ("nccl", "gloo:", "c10d::"),
    "matrix products": (
        "nvjet", "gemm", "cutlass", "cublas", "sm90_xmma", "splitkreduce", "aten::mm", "aten::addmm", "aten::bmm",
    ),
    "compiled elementwise and reductions": ("triton",),
    "optimizer": ("adam", "multi_tensor", "aten::_foreach"),
    "copies and casts": ("copy", "memcpy", "memset", "fill", "catarray"),
    "loss": ("softmax", "nll"),
}  # fmt: skip
_LONGEST = 24
_NAME_LETTERS = 110
STEP_MARK = "ProfilerStep"  # as torch's own schedules call it


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Milliseconds a step by kind; the longest kernels as (milliseconds a step, calls a step, name)."""

    by_kind_ms: dict[str, float]
    longest: list[tuple[float, int, str]]

    def lines(self) -> list[str]:
        """Return the table as text."""
        total = sum(self.by_kind_ms.values()) or 1.0
        kinds = [f"{ms:10.2f} ms {100 * ms / total:5.1f} %  {kind}" for kind, ms in self.by_kind_ms.items()]
        return [*kinds, "", *(f"{ms:10.2f} ms {count:6d} x  {name}" for ms, count, name in self.longest)]


def kind_of(kernel: str) -> str:
    """Return the row of the table that a kernel belongs to."""
    name = kernel.lower()
    return next((kind for kind, marks in KINDS.items() if any(mark in name for mark in marks)), "other")


def kernel_table(profiler: Any, num_steps: int) -> KernelTable:
    """Return the table of a profiler that has stopped after `num_steps` steps: the GPU's kernels, if there were any."""
    events = [event for event in profiler.key_averages() if not event.key.startswith(STEP_MARK)]
    kernels = [(event, event.self_device_time_total) for event in events if event.device_type.name == "CUDA"]
    if not kernels:
        kernels = [(event, event.self_cpu_time_total) for event in events]
    by_kind: dict[str, float] = {}
    for event, microseconds in kernels:
        kind = kind_of(event.key)
        by_kind[kind] = by_kind.get(kind, 0.0) + microseconds / 1e3 / num_steps
    kernels.sort(key=lambda kernel: -kernel[1])
    return KernelTable(
        {kind: round(ms, 2) for kind, ms in sorted(by_kind.items(), key=lambda item: -item[1])},
        [
            (round(microseconds / 1e3 / num_steps, 2), event.count // num_steps, event.key[:_NAME_LETTERS])
            for event, microseconds in kernels[:_LONGEST]
        ],
    )
