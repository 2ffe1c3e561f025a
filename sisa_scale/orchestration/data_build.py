"""The work on the units of a data set, spread over Ray tasks.

A task is a pure function that leaves its results as files, so one that is lost is simply run again. The staging
directory, the tokenizer and local inputs must lie where every node sees them.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sisa_scale.config.execution import ResourcesConfig
from sisa_scale.data.build.pipeline import UnitReport, UnitRunner
from sisa_scale.data.build.settings import WorkSettings
from sisa_scale.data.build.shards.summaries import UnitSummary
from sisa_scale.data.build.unit_work import unit_path, work_on_unit
from sisa_scale.data.build.units import Unit
from sisa_scale.errors import SisaScaleError, TrainingError
from sisa_scale.orchestration.cluster import ray_cluster

_POLL_SECONDS = 0.5
_MAX_RETRIES = 3  # of a task whose process was lost


@contextmanager
def ray_runner(workers: int, address: str | None, announce: Callable[[str], None]) -> Iterator[UnitRunner]:
    """Yield what runs units on `workers` Ray workers: of the cluster at `address`, or of one started when needed."""
    with ExitStack() as stack:
        is_started = False

        def run(
            units: Sequence[Unit], settings: WorkSettings, directory: Path, report: UnitReport
        ) -> list[UnitSummary]:
            nonlocal is_started
            if not units:
                return []
            if not is_started:
                announce("starting Ray" if address is None else f"joining Ray at {address}")
                stack.enter_context(ray_cluster(ResourcesConfig(workers=workers, device="cpu", ray_address=address)))
                is_started = True
            return _run_tasks(units, settings, directory.resolve(), report, workers)

        yield run


def _run_tasks(
    units: Sequence[Unit], settings: WorkSettings, directory: Path, report: UnitReport, workers: int
) -> list[UnitSummary]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    environment = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    task = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES, runtime_env={"env_vars": environment})(_work)
    shared = ray.put(settings)
    # The largest first, so that none of them is left over at the end.
    waiting = sorted(range(len(units)), key=lambda number: (units[number].num_bytes, -number))
    running: dict[Any, int] = {}
    done: dict[int, UnitSummary] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            number = waiting.pop()
            running[task.remote(units[number], shared, directory, Path.cwd())] = number
        finished, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
        for reference in finished:
            number = running.pop(reference)
            try:
                done[number] = ray.get(reference)
            except RayTaskError as error:
                if isinstance(error.cause, SisaScaleError):
                    raise error.cause from None
                raise
            except RayError as error:
                raise _lost(units[number], error) from error
            report(number, done[number], units[number].parts[-1].file.label)
        for number in running.values():
            progress = _read_progress(directory, units[number].key(settings.key))
            if progress is not None:
                report(number, *progress)
    return [done[number] for number in range(len(units))]


def _work(unit: Unit, settings: WorkSettings, directory: Path, current: Path) -> UnitSummary:
    os.chdir(current)  # relative paths mean here what they mean to the driver
    path = unit_path(directory, unit.key(settings.key), "progress")
    told = 0.0

    def report(summary: UnitSummary, source: str) -> None:
        nonlocal told
        if time.monotonic() - told < _POLL_SECONDS:
            return
        told = time.monotonic()
        counts = [summary.num_documents, summary.num_bytes, summary.num_tokens, summary.num_read_bytes]
        temporary = path.with_suffix(f".progress.{os.getpid()}")
        temporary.write_text(json.dumps([counts, source]))
        temporary.replace(path)

    try:
        return work_on_unit(unit, settings, directory, report)
    finally:
        path.unlink(missing_ok=True)


def _read_progress(directory: Path, key: str) -> tuple[UnitSummary, str] | None:
    try:
        counts, source = json.loads(unit_path(directory, key, "progress").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return UnitSummary([], *counts), source


def _lost(unit: Unit, error: BaseException) -> TrainingError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TrainingError.at(
        unit.parts[0].file.label,
        found=f"a worker that was lost {_MAX_RETRIES + 1} times ({reason})",
        allowed="a worker lives until its unit is done",
        remedy="Look at its memory; then run the same command again, which continues.",
    )
