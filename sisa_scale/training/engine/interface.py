"""Which network interface gloo uses where a machine's own name means the machine alone (127.0.1.1 on Debian)."""

import os
import socket

_VARIABLE = "GLOO_SOCKET_IFNAME"
_LOOPBACK = "127."


def use_reachable_interface(address: str) -> None:
    """Let gloo use the interface of `address`: of this machine, or else on the way to another one.

    gloo would tell the others the address of this machine's own name. Nothing changes where that can be reached, where
    `address` is this machine's alone, too, and where a person has named an interface.
    """
    import psutil

    if os.environ.get(_VARIABLE) or not _is_loopback(socket.gethostname()):
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.connect((address, 9))
        except OSError:
            return  # what joins the workers says so better
        own = probe.getsockname()[0]
    addresses = psutil.net_if_addrs()
    name = next((name for name, each in addresses.items() if any(one.address == own for one in each)), None)
    if name is not None and not own.startswith(_LOOPBACK):
        os.environ[_VARIABLE] = name


def _is_loopback(name: str) -> bool:
    """Say whether a name leads nowhere but to this machine; one that is unknown is taken for such by gloo."""
    try:
        return socket.gethostbyname(name).startswith(_LOOPBACK)
    except OSError:
        return True
