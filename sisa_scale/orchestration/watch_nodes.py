"""`python -m sisa_scale.orchestration.watch_nodes ADDRESS NUM LEAST SECONDS`: which nodes of a job are there.

Prints `ready` once NUM nodes have joined Ray, or LEAST of them when SECONDS have passed; then `lost` when fewer than
LEAST have answered for half a minute, and ends. 0 SECONDS: looks once. Ends with 1 when too few are there.
"""

import resource
import sys
import time

from sisa_scale.orchestration.nodes import living_nodes

_JOIN_POLL_SECONDS = 0.2
_WATCH_POLL_SECONDS = 5.0
_SILENT_SECONDS = 30.0


def connect(address: str, seconds: float) -> bool:
    """Connect to Ray; on a busy node its port is open long before it takes anyone in."""
    import ray

    deadline = time.monotonic() + seconds
    while True:
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
            return True
        except Exception as error:  # Ray raises no class of its own here
            ray.shutdown()
            if time.monotonic() > deadline:
                sys.stderr.write(f"Ray at {address} takes no one in: {error}\n")
                return False
        time.sleep(_JOIN_POLL_SECONDS)


def await_nodes(num: int, seconds: float) -> int:
    """Return how many nodes answer once `num` do, or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while True:
        living = len(living_nodes())
        if living >= num or time.monotonic() > deadline:
            return living
        time.sleep(_JOIN_POLL_SECONDS)


def await_loss(least: int) -> None:
    """Return when fewer than `least` nodes have answered for half a minute."""
    answered = time.monotonic()
    while time.monotonic() - answered < _SILENT_SECONDS:
        time.sleep(_WATCH_POLL_SECONDS)
        asked = time.monotonic()
        if len(living_nodes()) >= least:
            answered = asked


def main(address: str, num: int, least: int, seconds: float) -> int:
    """Watch the nodes of the Ray cluster at an address; returns the exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Ray aborts a process whose head is gone: no dump of 1 GB
    started = time.monotonic()
    if not connect(address, seconds):
        return 1
    living = await_nodes(num, seconds - (time.monotonic() - started))
    if living < num:
        sys.stderr.write(f"{living} of {num} nodes joined Ray within {seconds:.0f} s (start_seconds)\n")
    if living < least:
        return 1
    _tell("ready")
    if seconds > 0:
        await_loss(least)
        _tell("lost")
    return 0


def _tell(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
