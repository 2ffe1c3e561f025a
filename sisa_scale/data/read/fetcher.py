"""Fetching blocks in the background, a bounded number at a time, each asked for once."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

NUM_CONNECTIONS = 16

_NUM_REMEMBERED = 1 << 14


class BlockFetcher:
    """Calls `fetch` for blocks by their number, in the order of the requests; its errors are left to the reader."""

    def __init__(self, fetch: Callable[[int], object]) -> None:
        self._fetch = fetch
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._requested: OrderedDict[int, None] = OrderedDict()

    def request(self, blocks: Iterable[int]) -> None:
        """Fetch those of `blocks` that were not asked for lately."""
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(NUM_CONNECTIONS, thread_name_prefix="block-fetcher")
            for block in blocks:
                if block not in self._requested:
                    self._requested[block] = None
                    self._pool.submit(self._fetch, block)
            while len(self._requested) > _NUM_REMEMBERED:
                self._requested.popitem(last=False)

    def close(self) -> None:
        """Forget what is still to be fetched, and wait for what is on its way."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._requested.clear()
        if pool is not None:
            pool.shutdown(cancel_futures=True)
