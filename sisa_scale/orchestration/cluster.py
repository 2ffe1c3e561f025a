"""A Ray cluster for one run: a running one by address, or one of our own for as long as the run lasts."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from sisa_scale.config.execution import ResourcesConfig
from sisa_scale.errors import ConfigError, TrainingError

Device = Literal["cpu", "cuda"]

_SCRATCH_PREFIX = "sisa-ray-"
_CONNECT_SECONDS = 10.0
_SETTINGS = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",  # a run has its own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean in a worker what they mean here
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a lost worker is noticed
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # and a stopped one
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # then look anew at which nodes there are
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # Ray starts workers at 15: on a busy machine everything else would go first
}
_SETTINGS_OF_OUR_OWN = {
    # Actors outlive a killed driver for as long as they hope that its Ray comes back, which this one never does.
    # Not shorter: a driver that does not hear of its Ray for so long ends, too, and a busy machine has pauses.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
    # A process less at every start of the workers: nobody drains the one node of this cluster.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nor a process for every core of the machine as soon as a driver comes: workers have an environment of their own
    # and never are one of those.
    "RAY_prestart_worker_first_driver": "0",
}
_OBJECT_STORE_BYTES = 256 << 20  # no data goes through Ray; the default is a third of the memory


@contextmanager
def ray_cluster(resources: ResourcesConfig, log: Path | None = None) -> Iterator[Device]:
    """Connect to Ray, or start it here, and yield the device the workers will use.

    log: takes what Ray says of lost workers; None leaves that to the terminal. Raises ConfigError when the address does
    not answer or the cluster lacks what the run asks for, TrainingError when Ray does not start here.
    """
    settings = _SETTINGS if resources.ray_address is not None else {**_SETTINGS, **_SETTINGS_OF_OUR_OWN}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    import ray

    from sisa_scale.compat.ray import messages_to

    scratch = None
    if resources.ray_address is None:
        # A folder of our own: /tmp/ray may belong to another user. Short, because socket paths are limited.
        _remove_abandoned()
        scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{os.getpid()}-", dir="/tmp")
    messages = ExitStack()
    if log is not None:
        messages.enter_context(messages_to(log))
    try:
        _connect(resources, scratch)
        yield _device(resources, ray.cluster_resources())
    finally:
        ray.shutdown()
        messages.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        for name in added:
            os.environ.pop(name, None)


def _remove_abandoned() -> None:
    """Delete the folders of drivers that were killed before they could."""
    for folder in Path("/tmp").glob(f"{_SCRATCH_PREFIX}*-*"):
        pid = folder.name.removeprefix(_SCRATCH_PREFIX).partition("-")[0]
        if folder.stat().st_uid == os.getuid() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _connect(resources: ResourcesConfig, scratch: str | None) -> None:
    import ray

    from sisa_scale.compat.ray import OwnPathJob, signals_left_alone

    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True, "job_config": OwnPathJob()}
    if scratch is not None:
        _start_here(resources, scratch, quiet)
        return
    try:
        _check_reachable(resources.ray_address or "")
        with signals_left_alone():
            ray.init(resources.ray_address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError.at(
            "resources.ray_address",
            found=f"{resources.ray_address}, which does not answer ({reason})",
            allowed="the address of a running Ray cluster, or null to start one here",
            remedy="Check it with `ray status --address ADDRESS`, or set ray_address=null.",
        ) from error


def _start_here(resources: ResourcesConfig, scratch: str, quiet: dict[str, Any]) -> None:
    """Start a cluster of this machine; a second time if the first one fails, as it may on a busy machine."""
    import ray

    from sisa_scale.compat.ray import scratch_in, signals_left_alone

    num_cpus = max(resources.workers * resources.cpus_per_worker, os.cpu_count() or 1)
    local = {"num_cpus": num_cpus, "object_store_memory": _OBJECT_STORE_BYTES, **scratch_in(scratch)}
    for is_last in (False, True):
        try:
            with signals_left_alone():
                ray.init("local", include_dashboard=False, **local, **quiet)
            return
        except Exception as error:  # Ray raises no class of its own here
            ray.shutdown()
            if is_last:
                raise TrainingError.at(
                    f"Ray in {scratch}",
                    found=str(error).splitlines()[0] if str(error) else type(error).__name__,
                    allowed="Ray's processes must start within half a minute; it was tried twice",
                    remedy="Nothing was begun and nothing is lost. Try again when the machine is less busy.",
                ) from error


def _check_reachable(address: str) -> None:
    """Raise OSError at once where Ray itself would try for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _device(resources: ResourcesConfig, available: dict[str, float]) -> Device:
    num_gpus, workers = int(available.get("GPU", 0)), resources.worker_range[0]
    if resources.device == "cuda" and num_gpus < workers:
        raise ConfigError.at(
            "resources.device",
            found=f"cuda for {workers} workers",
            allowed=f"the cluster has {num_gpus} GPUs, and every worker needs one",
            remedy="Set device=cpu, lower workers, or point ray_address to a cluster with GPUs.",
        )
    device: Device = "cuda" if resources.device != "cpu" and num_gpus >= workers else "cpu"
    wanted = workers * resources.cpus_per_worker
    if available.get("CPU", 0) < wanted:
        raise ConfigError.at(
            "resources.workers",
            found=f"{workers} workers x {resources.cpus_per_worker} cpus_per_worker",
            allowed=f"the cluster has {int(available.get('CPU', 0))} CPUs",
            remedy="Lower one of the two, or use a larger cluster.",
        )
    return device
