"""Lines that count what is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from sisa_scale.cli.common.console import console


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int], None]]:
    """Give a function to be told of bytes as they are done; draws on a terminal only."""
    columns = TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda num_bytes: progress.advance(task, num_bytes)


@contextmanager
def item_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to be told of items as they are done, and of how many there are; draws on a terminal only."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda num_items, total: progress.update(task, advance=num_items, total=total)
