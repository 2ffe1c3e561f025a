"""A Ray of our own: started again if it does not start, and nothing of it stays in the environment."""

import os
from typing import Any

import pytest

from sisa_scale.config.execution import ResourcesConfig
from sisa_scale.orchestration.cluster import ray_cluster


def test_a_second_start_is_tried_and_settings_end_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    start, calls = ray.init, []

    def fail_once(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("The current node timed out during startup.")
        return start(*arguments, **options)

    monkeypatch.setattr(ray, "init", fail_once)
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    with ray_cluster(ResourcesConfig(workers=1, device="cpu")) as device:
        assert (device, len(calls)) == ("cpu", 2)
        assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ
