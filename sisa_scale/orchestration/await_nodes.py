"""`python -m sisa_scale.orchestration.await_nodes ADDRESS NUM SECONDS`: wait until NUM nodes have joined Ray."""

import sys
import time


def await_nodes(address: str, num: int, seconds: float) -> int:
    """Return how many nodes live once `num` do, or `seconds` have passed."""
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    deadline = time.monotonic() + seconds
    while True:
        alive = sum(bool(node["Alive"]) for node in ray.nodes())
        if alive >= num or time.monotonic() > deadline:
            ray.shutdown()
            return alive
        time.sleep(0.2)


if __name__ == "__main__":
    found = await_nodes(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    if found < int(sys.argv[2]):
        sys.stderr.write(f"{found} of {sys.argv[2]} nodes joined Ray within {sys.argv[3]} s (start_seconds)\n")
        sys.exit(1)
