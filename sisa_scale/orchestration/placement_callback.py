"""Where the next attempt's workers may go, if there is to be one, and an orderly end of the one before.

Two hooks of Ray Train's controller. Ray calls them "internal callbacks" and accepts them in RunConfig.callbacks.
"""

import time
from pathlib import Path
from typing import Any

import ray
from ray.train import ScalingConfig

from sisa_scale.compat.ray import ControllerCallback, ResizingState, away_from
from sisa_scale.config.execution import ResourcesConfig
from sisa_scale.orchestration.nodes import living_nodes, places
from sisa_scale.runs.attempts import deaths_by_node
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.failure import raise_failure
from sisa_scale.runs.owner import check_fence
from sisa_scale.runs.stop_request import write_stop

_SAVE_SECONDS = 300.0
_POLL_SECONDS = 0.2


class Placement(ControllerCallback):  # type: ignore[misc]
    """Keeps workers off nodes that are lost or that keep losing them, and saves before the number of workers grows."""

    def __init__(self, run_dir: Path, resources: ResourcesConfig, token: str) -> None:
        self.run_dir, self.resources, self.token = run_dir, resources, token
        self._left_out: list[str] = []
        self._is_resizing = False

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Remember whether the workers that run are to be replaced by more or fewer."""
        if isinstance(current_state, ResizingState):
            self._is_resizing = True

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Let running workers save and end; then ask for no more workers than there is room for.

        Raises the error of a worker that would come again: Ray then tries no more, and ends.
        """
        check_fence(self.run_dir, self.token)
        raise_failure(self.run_dir)
        if self._is_resizing:
            self._is_resizing = False
            self._save_and_end(resize_decision.num_workers)
        nodes = living_nodes()
        each = resize_decision.resources_per_worker
        known = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._left_out = sorted((known - set(nodes)) | set(self._suspects(nodes, each)))
        room = places(nodes, each, self._left_out)
        if self.resources.min_workers is not None and room >= self.resources.min_workers:
            resize_decision.num_workers = min(resize_decision.num_workers, room)

    def on_controller_start_worker_group(
        self, *, scaling_config: ScalingConfig, num_workers: int
    ) -> dict[str, str] | None:
        """Return a selector that keeps the workers off the nodes left out."""
        if not self._left_out:
            return None
        return away_from(self._left_out)

    def _suspects(self, nodes: dict[str, Any], each: dict[str, float]) -> list[str]:
        """Return the nodes that lost workers too often, the worst first, as long as the others suffice."""
        limit, directory = self.resources.max_node_failures, RunDirectory(self.run_dir)
        deaths = deaths_by_node(directory.attempts())
        suspects: list[str] = []
        for node, number in deaths.most_common():
            is_spare = places(nodes, each, [*suspects, node]) >= self.resources.worker_range[0]
            if not limit or number < limit or node not in nodes or not is_spare:
                continue
            suspects.append(node)
            if node not in self._left_out:
                directory.event("node_left_out", node=node, deaths=number)
        return suspects

    def _save_and_end(self, num_workers: int) -> None:
        directory = RunDirectory(self.run_dir)
        directory.event("resize", workers=num_workers)
        write_stop(directory.stop_path, "interrupt")
        deadline = time.monotonic() + _SAVE_SECONDS
        while directory.attempts()[-1].ended is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        directory.stop_path.unlink(missing_ok=True)
