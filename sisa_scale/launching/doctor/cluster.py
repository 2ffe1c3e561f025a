"""Checks of a Ray cluster that an address names."""

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from sisa_scale.errors import ConfigError
from sisa_scale.launching.doctor.finding import Finding

_CONNECT_SECONDS = 5.0
_SKEW_WARNING_SECONDS, _SKEW_FAILURE_SECONDS = 1.0, 30.0
_NODE_SECONDS = 10


def check_ray_nodes(address: str) -> Iterator[Finding]:
    """Reach a Ray cluster, and compare the clock and Ray's version of every node with ours."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise ConfigError.at(
                "ray_address",
                found=f"{address}, which is not reachable ({error})",
                allowed="HOST:PORT of a running Ray cluster",
                remedy="Check the address and the firewall.",
            ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
        task = ray.remote(num_cpus=0)(_node_time)
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = task.options(scheduling_strategy=here)
            ray.get(remote.remote(), timeout=_NODE_SECONDS)  # starts the process, so that the next one measures
            before = time.time()
            there = ray.get(remote.remote(), timeout=_NODE_SECONDS)
            after = time.time()
            skew = there - (before + after) / 2
            yield _clock_finding(str(node["NodeManagerHostname"]), skew, (after - before) / 2)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        yield Finding(
            "ray", "ok", f"{len(nodes)} nodes, {int(ray.cluster_resources().get('CPU', 0))} CPUs, {gpus} GPUs"
        )
    finally:
        ray.shutdown()


def _clock_finding(host: str, skew: float, doubt: float) -> Finding:
    found = f"{host}: {skew:+.3f} s (within {doubt:.3f} s)"
    if abs(skew) - doubt > _SKEW_FAILURE_SECONDS:
        return Finding("clock", "failure", found, "Start a time service (chrony) on the node.")
    if abs(skew) - doubt > _SKEW_WARNING_SECONDS:
        return Finding("clock", "warning", found, "Start a time service (chrony) on the node.")
    return Finding("clock", "ok", found)


def _node_time() -> float:
    return time.time()
