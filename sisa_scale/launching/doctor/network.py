"""Whether this machine has the network that nodes are to talk over."""

import subprocess

from sisa_scale.launching.doctor.finding import Finding


def check_interface(network: str) -> Finding:
    """Look for an IPv4 address at an interface, by its name or by the network it is in (10.0.0.0/16)."""
    selector = ["to", network] if "/" in network else ["dev", network]
    try:
        done = subprocess.run(
            ["ip", "-4", "-o", "addr", "show", *selector], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("network", "skipped", f"network_interface {network}", f"`ip` does not answer here: {error}")
    words = done.stdout.split()
    if len(words) < 4:
        remedy = "Compute nodes may have it: look with `srun ip -4 addr`, or give a network such as 10.0.0.0/16."
        return Finding("network", "warning", f"this machine has no address at network_interface {network}", remedy)
    return Finding("network", "ok", f"network_interface {network} is {words[3]} at {words[1]} here")
