"""Private parts of Ray, checked with 2.60.0. pyproject.toml keeps it in that minor series."""

from pathlib import Path
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState

__all__ = ["ControllerCallback", "ResizingState", "away_from", "draining_nodes", "scratch_in"]

# ControllerCallback: Ray's public callbacks are told of failures, not of the next attempt's workers before they start.
# ResizingState: the only word that running workers are to be replaced by more or fewer.


def draining_nodes() -> set[str]:
    """Return the ids of nodes that are to go away; `ray.nodes()` counts them as alive."""
    return set(ray._private.state.state.get_draining_nodes())


def away_from(nodes: list[str]) -> dict[str, str]:
    """Return a label selector for any other node; the label of a node's id has no public name."""
    return {ray._raylet.RAY_NODE_ID_KEY: f"!in({','.join(nodes)})"}


def scratch_in(directory: str | Path) -> dict[str, Any]:
    """Return the argument of `ray.init` for the folder of its sockets and logs; /tmp/ray may be another user's."""
    return {"_temp_dir": str(directory)}
