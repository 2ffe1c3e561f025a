"""The process group that Ray Train joins workers to, on nodes whose own names may mean nothing to the others."""

from typing import Any

import ray
from ray.train.torch import TorchConfig

from sisa_scale.compat.ray import TorchBackend
from sisa_scale.training.engine.interface import use_reachable_interface


class ReachableTorchConfig(TorchConfig):  # type: ignore[misc]
    """A process group over the interfaces by which Ray reaches its nodes, where own names lead nowhere."""

    @property
    def backend_cls(self) -> type:
        """What Ray Train does in the workers before their own code begins."""
        return _Backend


class _Backend(TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Join the workers."""
        worker_group.execute(_prepare)
        super().on_start(worker_group, backend_config)


def _prepare() -> None:
    use_reachable_interface(ray.util.get_node_ip_address())
