"""Which nodes of the Ray cluster can take workers now, as found by asking them.

Ray's head counts a lost node as alive until its health checks have failed often enough; its workers would be waited
for in vain. So the raylets are asked by a connection to their port, which a dead process refuses at once.
"""

import socket
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_ANSWER_SECONDS = 2.0


def answers(node_id: str) -> bool:
    """Whether the raylet of a node accepts connections; a node that Ray knows nothing of counts as lost."""
    import ray

    return any(node["NodeID"] == node_id and _accepts(node) for node in ray.nodes())


def living_nodes() -> dict[str, Mapping[str, float]]:
    """Return the resources of every node that Ray counts as alive, that answers and is not drained, by node id."""
    import ray

    from sisa_scale.compat.ray import draining_nodes

    draining = draining_nodes()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]
    with ThreadPoolExecutor(max_workers=64) as pool:
        replies = list(pool.map(_accepts, nodes))
    return {node["NodeID"]: node["Resources"] for node, reply in zip(nodes, replies, strict=True) if reply}


def places(nodes: Mapping[str, Mapping[str, float]], each: Mapping[str, float], without: Collection[str] = ()) -> int:
    """Return how many workers that need `each` fit on the nodes, those in `without` left out."""
    return sum(
        int(min(resources.get(name, 0.0) // amount for name, amount in each.items() if amount > 0))
        for node, resources in nodes.items()
        if node not in without
    )


def _accepts(node: Mapping[str, Any]) -> bool:
    if not node["Alive"]:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
