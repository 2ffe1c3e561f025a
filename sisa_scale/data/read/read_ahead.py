"""Running ahead of a consumer with threads, without changing what it gets."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def read_ahead(read: Callable[[int], T], steps: Iterable[int], num_threads: int) -> Generator[T, None, None]:
    """Yield `read(step)` for each of `steps` in order, computed up to `num_threads` + 1 steps ahead.

    Without threads each is read when it is asked for. An error of a thread is raised here, in its turn. The threads end
    when the generator is closed or collected.
    """
    remaining = iter(steps)
    if not num_threads:
        yield from map(read, remaining)
        return
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix="token-stream")
    try:
        pending: deque[Future[T]] = deque(threads.submit(read, step) for step in islice(remaining, num_threads + 1))
        while pending:
            item = pending.popleft().result()
            pending.extend(threads.submit(read, step) for step in islice(remaining, 1))
            yield item
    finally:
        threads.shutdown(cancel_futures=True)
