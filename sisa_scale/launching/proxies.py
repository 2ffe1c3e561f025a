"""The proxies of the environment, as `requests` hears them: what stands between us and an address."""

import os
from urllib.parse import urlsplit


def proxy_advice(address: str) -> tuple[str, str]:
    """Return how an address is asked for because of proxies, and what changes that; nothing where none are set.

    Names the variables, and of a proxy its host and port alone: a password may stand before them.
    """
    from requests.utils import get_environ_proxies, select_proxy

    host, scheme = urlsplit(address).hostname or address, urlsplit(address).scheme
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    name = next((name for name in names if os.environ.get(name)), None)
    if name is None:
        return "", ""
    exempt = next((each for each in ("no_proxy", "NO_PROXY") if os.environ.get(each)), None)
    proxy = select_proxy(address, get_environ_proxies(address, no_proxy=None))
    if proxy is None:
        return f", asked without the proxy of {name}, because {exempt} names it", f"Take {host} out of {exempt}"
    listed = ",".join(filter(None, (os.environ.get(exempt or ""), host)))
    through = urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2]
    return (
        f", asked through the proxy {through} of {name}",
        f"If {host} is reached without the proxy: export {exempt or 'NO_PROXY'}={listed}",
    )
