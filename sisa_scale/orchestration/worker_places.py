"""Tells each worker its place, as torchrun does; the workers then make their process group themselves.

Ray's own configuration for torch makes the group, and imports torch in the driver and the controller for it.
"""

import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


class WorkerPlaces(BackendConfig):  # type: ignore[misc]
    """Gives the workers the environment variables of `torch.distributed`."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray calls when the workers have started."""
        return _Environment


class _Environment(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True  # GPUs of a node reach each other directly

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let the first worker choose where the others find it."""
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_note_place, address, port)


def _free_address() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return address, int(probe.getsockname()[1])


def _note_place(address: str, port: int) -> None:
    context = ray.train.get_context()
    place = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ.update({name: str(value) for name, value in place.items()})
