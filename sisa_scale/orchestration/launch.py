"""Start the workers of a run with Ray Train, watch them, and say how it ended."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sisa_scale.config.run import RunConfig
from sisa_scale.data.sources import load_manifests
from sisa_scale.errors import SisaScaleError, TrainingError
from sisa_scale.evaluation.resources import check_vocabulary
from sisa_scale.orchestration.cluster import Device, ray_cluster
from sisa_scale.orchestration.failure import clear_failure, has_failure, note_failure, raise_failure
from sisa_scale.training.run_directory import RunDirectory
from sisa_scale.training.worker import Outcome, work

_POLL_SECONDS = 0.2


def launch(config: RunConfig, watch: Callable[[], None], announce: Callable[[str], None]) -> Outcome:
    """Run the config to its end, or until Ctrl-C or SIGTERM asks for a checkpoint and a stop.

    watch: called a few times a second while the workers run; announce: told what happens in plain words.
    Raises the SisaScaleError of a worker, or TrainingError when workers were lost more often than allowed.
    """
    directory = RunDirectory(config.directory)
    check_vocabulary(config, load_manifests(config.data))
    directory.stop_path.unlink(missing_ok=True)
    clear_failure(config.directory)
    announce(
        "starting Ray" if config.resources.ray_address is None else f"joining Ray at {config.resources.ray_address}"
    )
    with ray_cluster(config.resources) as device:
        announce(f"starting {config.resources.workers} workers on {device}")
        with _stop_on_signals(directory.stop_path, announce):
            _fit(config, device, watch)
    return _outcome(directory, config)


def _fit(config: RunConfig, device: Device, watch: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(config, device).fit()
        except Exception as error:  # handed to the main thread below
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        watch()
    raise_failure(config.directory)
    if failures:
        raise _lost_workers(config, failures[0]) from failures[0]


def _trainer(config: RunConfig, device: Device) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = config.resources
    environment = {"OMP_NUM_THREADS": str(resources.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
    storage = config.directory / "ray"
    storage.mkdir(parents=True, exist_ok=True)
    attempt = len(RunDirectory(config.directory).attempts()) + 1
    return TorchTrainer(
        _work,
        train_loop_config={"config": config, "device": device},
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=device == "cuda",
            resources_per_worker={"CPU": resources.cpus_per_worker, **({"GPU": 1} if device == "cuda" else {})},
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt_{attempt:04d}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            worker_runtime_env={"env_vars": environment},
        ),
    )


def _work(arguments: dict[str, Any]) -> None:
    config: RunConfig = arguments["config"]
    if has_failure(config.directory):
        return  # Ray restarted us, but the error would come again
    try:
        work(config, arguments["device"])
    except SisaScaleError as error:
        note_failure(config.directory, error)
        raise


@contextmanager
def _stop_on_signals(stop_path: Path, announce: Callable[[str], None]) -> Iterator[None]:
    def ask(_signal: int, _frame: FrameType | None) -> None:
        if stop_path.exists():
            raise KeyboardInterrupt
        stop_path.touch()
        announce("stopping after this step, with a checkpoint (once more to stop at once)")

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        stop_path.unlink(missing_ok=True)


def _lost_workers(config: RunConfig, error: BaseException) -> TrainingError:
    lines = str(error).strip().splitlines()
    reason = lines[-1] if lines else repr(error)
    return TrainingError.at(
        config.directory,
        found=f"more than {config.resources.max_failures} failures of workers, the last: {reason}",
        allowed="resources.max_failures restarts are made",
        remedy=f"Find the cause above, then continue with `sisa-scale resume {config.directory}`.",
    )


def _outcome(directory: RunDirectory, config: RunConfig) -> Outcome:
    newest = directory.attempts()[-1]
    if newest["outcome"] in ("finished", "interrupted"):
        return newest["outcome"]  # type: ignore[no-any-return]
    raise TrainingError.at(
        config.directory,
        found=f"an attempt that ended as {newest['outcome']}",
        allowed="a run ends finished or interrupted",
        remedy=f"Continue with `sisa-scale resume {config.directory}`.",
    )
