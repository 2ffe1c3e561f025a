"""The metrics of a living run for Prometheus, served by its main worker."""

import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.reporting.goodput import ledger
from sisa_scale.runs.attempts import read_attempts
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.events import read_events
from sisa_scale.runs.logs.metrics import StepRow, read_totals

PREFIX = "sisa_scale_"
_MOST_PORTS = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """What a scrape can tell of: the newest step, and of the whole run what its logs add up to."""

    row: StepRow
    total_steps: int
    num_skipped: int
    num_restarts: int
    goodput: float


_Read = Callable[[Reading], float | None]

# Name without prefix -> what it is, how it is read. A name says its unit, as Prometheus wants it.
GAUGES: Mapping[str, tuple[str, _Read]] = {
    "step": ("Optimizer steps taken", lambda r: r.row.step),
    "planned_steps": ("Optimizer steps of the whole run", lambda r: r.total_steps),
    "tokens": ("Tokens trained on", lambda r: r.row.tokens),
    "loss_nats": ("Training loss of the newest step in nats per token", lambda r: r.row.loss),
    "learning_rate": ("Learning rate of the newest step", lambda r: r.row.learning_rate),
    "gradient_norm": ("Norm of the gradient before clipping", lambda r: r.row.gradient_norm),
    "tokens_per_second": ("Tokens per second of all workers", lambda r: r.row.tokens_per_second),
    "step_seconds": ("Seconds of the newest step", lambda r: r.row.step_seconds),
    "data_wait_seconds": ("Seconds of the newest step without data", lambda r: r.row.data_wait_seconds),
    "mfu_ratio": ("Model FLOPs utilisation, a share of 1", lambda r: r.row.mfu),
    "goodput_ratio": ("Share of the worker-hours in steps the run stands on", lambda r: r.goodput),
    "gpu_peak_memory_bytes": ("Most memory that tensors held on the GPU of rank 0", lambda r: r.row.peak_memory_bytes),
    "last_step_timestamp_seconds": ("When the newest step ended, Unix time", lambda r: r.row.time.timestamp()),
}
COUNTERS: Mapping[str, tuple[str, _Read]] = {
    "restarts": ("Attempts after the first one", lambda r: r.num_restarts),
    "skipped_steps": ("Steps that changed no weight", lambda r: r.num_skipped),
}


class Exporter(Collector):
    """Tells Prometheus of a run; what adds up is computed when it is asked, so a step costs an assignment."""

    def __init__(self, config: RunConfig) -> None:
        self._name = config.name.encode("utf-8", "replace").decode()
        self._directory, self._total_steps = RunDirectory(config.directory), config.total_steps
        totals = read_totals(config.directory)
        self._seconds_by_attempt, self._num_skipped = totals.seconds_by_attempt, totals.num_skipped
        self._row: StepRow | None = None
        self._lock = threading.Lock()

    def update(self, row: StepRow) -> None:
        """Take a step."""
        with self._lock:
            self._row = row
            seconds, wait = self._seconds_by_attempt.get(row.attempt, (0.0, 0.0))
            added = seconds + row.step_seconds, wait + (row.data_wait_seconds or 0.0)
            self._seconds_by_attempt[row.attempt] = added
            self._num_skipped += row.skipped

    def collect(self) -> Iterator[Metric]:
        """Yield what is known; nothing before the first step of the process."""
        reading = self._read()
        if reading is None:
            return
        for kind, table in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, (doc, read) in table.items():
                value = read(reading)
                if value is not None:
                    family = kind(PREFIX + name, doc, labels=["run"])
                    family.add_metric([self._name], float(value))
                    yield family

    def _read(self) -> Reading | None:
        with self._lock:
            row, seconds, num_skipped = self._row, dict(self._seconds_by_attempt), self._num_skipped
        if row is None:
            return None
        attempts = read_attempts(self._directory.path)
        spent = ledger(attempts, seconds, read_events(self._directory.path), datetime.now(UTC))
        return Reading(row, self._total_steps, num_skipped, max(0, len(attempts) - 1), spent.shares["compute"])


@contextmanager
def serving(config: RunConfig, is_main: bool) -> Iterator[Exporter | None]:
    """Serve the metrics of a run on the main worker while entered; None where none are asked for.

    A port that is taken gives way to the next free one, and what cannot be served is left: no run ends for its metrics.
    Either is an event of the run.
    """
    wanted, address = config.observation.metrics_port, config.observation.metrics_address
    if wanted is None or not is_main:
        yield None
        return
    exporter, registry, server = Exporter(config), CollectorRegistry(), None
    directory, reason = RunDirectory(config.directory), ""
    registry.register(exporter)
    for port in range(wanted, min(wanted + _MOST_PORTS, 1 << 16)):
        try:
            server, _thread = start_http_server(port, address, registry)
        except OSError as error:
            reason = f"{address} port {port}: {error.strerror or error}"
            continue
        directory.event("metrics_served", host=platform.node(), url=_url(address, port), wanted_port=wanted)
        break
    if server is None:
        directory.event("metrics_not_served", host=platform.node(), reason=reason)
        warnings.warn(f"no metrics are served ({reason}); the run goes on", SisaScaleWarning, stacklevel=3)
    try:
        yield exporter
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def _url(address: str, port: int) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/metrics"
