"""A Ray cluster of a head without room for workers and two nodes with room for one each, until standard input ends.

Prints one line of JSON: its address, and the process of every node's raylet by node id. A program of its own, since a
process that has talked to Ray runs threads and must not fork.
"""

import json
import os
import sys

_QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


def main() -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    small = {"include_dashboard": False, "object_store_memory": 80 << 20}
    head = {**small, "num_cpus": 0, "_system_config": _QUICK_HEALTH_CHECKS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
        raylets = {node.node_id: node.all_processes["raylet"][0].process.pid for node in nodes}
        print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
