"""`python -m sisa_scale.orchestration.drain_node SECONDS`: tell Ray that this node goes away in so many seconds.

For a pod that is stopped: the run sees it, saves, and goes on with the nodes that are left.
"""

import subprocess
import sys
import time


def leave(seconds: int) -> None:
    """Drain the node this process runs on, and wait until its time is over."""
    import ray

    ray.init("auto", log_to_driver=False, logging_level="ERROR")
    context = ray.get_runtime_context()
    address, node = context.gcs_address, context.get_node_id()
    ray.shutdown()
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod is stopped"]
    deadline = ["--deadline-remaining-seconds", str(seconds)]
    subprocess.run(["ray", "drain-node", "--address", address, "--node-id", node, *reason, *deadline], check=True)
    time.sleep(seconds)


if __name__ == "__main__":
    leave(int(sys.argv[1]))
