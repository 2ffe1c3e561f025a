"""Seconds of a step in which GPUs send gradients and weights to each other, by what DeepSpeed 0.19 sends.

Ring algorithms: of an exchange of N bytes among W workers each GPU sends N (W - 1)/W to gather or to scatter, and twice
that to reduce for all. P parameters, 4 bytes each; A micro-steps a step:

    stage   gradients                        weights
    0       reduced for all, once a step     -
    1       reduced for all, once a step     gathered once
    2       reduced for all, A times         gathered once
    3       scattered, A times               gathered A times for the forward pass, and A times again for the backward
                                             pass beyond what stays gathered (`execution.reshard_after_forward`)

Nothing is sent while a GPU computes, which is so but for some of stage 3.
"""

from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.execution import GATHERED_PARAMS
from sisa_scale.config.run import RunConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.devices import Gpu

FP32_BYTES = 4
NetworkKind = Literal["infiniband", "ethernet"]

# Bytes a second that a GPU sends. Inside a host: the share of what its data sheet says that meets the rows of two H200s
# in docs/performance.md. Between hosts, an assumption: a link of 400 Gb/s for every GPU, or of 100 Gb/s for a host.
_REACHED = 0.45
_INFINIBAND = 0.8 * 50e9
_ETHERNET_OF_HOST = 0.8 * 12.5e9


@dataclass(frozen=True, slots=True)
class Network:
    """How GPUs are joined: so many in a host by their own links, hosts by a network."""

    gpus_per_host: int = 8
    kind: NetworkKind = "infiniband"

    def link(self, gpu: Gpu, workers: int) -> tuple[float, str]:
        """Return the bytes a second that a GPU sends on the slowest way to another worker, and the name of that way."""
        inside = _REACHED * gpu.link_bytes_per_second
        if workers <= self.gpus_per_host:
            return inside, f"{gpu.link_name} at {inside / 1e9:.0f} GB/s a GPU"
        outside = _INFINIBAND if self.kind == "infiniband" else _ETHERNET_OF_HOST / self.gpus_per_host
        name = "InfiniBand" if self.kind == "infiniband" else "Ethernet"
        share = min(inside, outside)
        return share, f"{name} between hosts of {self.gpus_per_host} at {share / 1e9:.3g} GB/s a GPU"


def sent_bytes(config: RunConfig) -> int:
    """Return what a GPU sends in a step."""
    execution, workers = config.execution, config.resources.workers
    stage, micro_steps = execution.zero_stage, config.accumulation_steps
    params = count_parameters(config.model).total
    once = FP32_BYTES * params * (workers - 1) // workers
    if stage < 3:
        return once * (2 * (micro_steps if stage == 2 else 1) + (1 if stage else 0))
    again = max(0, params - GATHERED_PARAMS // 2) / params if execution.reshard_after_forward else 0.0
    return round(once * micro_steps * (2 + again))


def communication_seconds(config: RunConfig, gpu: Gpu, network: Network) -> float:
    """Return the seconds of a step in which a GPU sends; sequences that workers share are not counted."""
    workers = config.resources.workers
    return sent_bytes(config) / network.link(gpu, workers)[0] if workers > 1 else 0.0
