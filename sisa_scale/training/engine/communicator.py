"""The few things workers say to each other outside the engine."""

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, not in its __all__

from sisa_scale.errors import ConfigError
from sisa_scale.models.sequence_parallel import SequenceGroup
from sisa_scale.runs.exit_codes import end_process
from sisa_scale.training.engine.interface import use_reachable_interface

_TIMEOUT = timedelta(minutes=30)  # a watchdog of ours is quicker
_ASIDE_TIMEOUT = timedelta(hours=1)
_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Communicator:
    """One worker's place among the others, over a process group, by default the one that training uses."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this worker writes the files that exist once."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the elementwise sum over all workers, on the CPU; integers wrap."""
        values = values.to(self.device)
        dist.all_reduce(values, group=self.group)
        return values.cpu()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers by rank, on every worker."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        box = [value]
        device = self.device if self.device.type == "cuda" else None
        dist.broadcast_object_list(box, src=0, device=device, group=self.group)
        return box[0]

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier(group=self.group)

    def sequence_group(self, size: int) -> SequenceGroup:
        """Return the workers that share sequences with this one: `size` of successive ranks, so of one node."""
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, self.world_size, size)]
        return SequenceGroup(groups[self.rank // size].group_name, size, self.rank % size)

    def aside(self) -> "Communicator":
        """Return the same workers over a process group of its own on the CPU, for use by one other thread."""
        group = dist.new_group(backend="gloo", timeout=_ASIDE_TIMEOUT)
        return replace(self, device=torch.device("cpu"), group=group)


def connect(device: str) -> Communicator:
    """Join the workers that Ray Train or torchrun started.

    device: "cpu" (gloo) or "cuda" (NCCL). The usual environment variables say who we are; raises ConfigError without.
    """
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise ConfigError.at(
            "the environment of this worker",
            found=f"no {', '.join(missing)}",
            allowed="torchrun or Ray starts the workers of a run and tells each its place",
            remedy="Use `torchrun --no-python sisa-scale worker RECIPE --device DEVICE`, or `sisa-scale train`.",
        )
    rank, local_rank, world_size = (int(os.environ[name]) for name in _ENVIRONMENT[:3])
    if device == "cuda":
        # Ray Train shows a worker all GPUs of its node's workers; torchrun does too.
        torch.cuda.set_device(local_rank if torch.cuda.device_count() > 1 else 0)
        place = torch.device("cuda", torch.cuda.current_device())
    else:
        place = torch.device("cpu")
    if not dist.is_initialized():
        use_reachable_interface(os.environ["MASTER_ADDR"])
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=_store(), rank=rank, world_size=world_size, timeout=_TIMEOUT)
    return Communicator(rank, local_rank, world_size, place)


def leave(code: int = 0) -> NoReturn:
    """End this worker's process with an exit code, when all workers have said their last.

    The interpreter is not taken down. DeepSpeed's references keep groups and their threads alive to the very end, and a
    thread of gloo's that then lets go of a tensor aborts the process: "terminate called without an active exception".
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    end_process(code)


def _store() -> PrefixStore:
    """Return the store by which workers find each other, with names of its own for every life of the processes.

    torchrun keeps one store over all its restarts: without a prefix, restarted workers find the addresses of the dead.
    """
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    is_ours = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and os.environ["RANK"] == "0"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(f"life_{life}", TCPStore(address, port, is_master=is_ours, wait_for_workers=False))
