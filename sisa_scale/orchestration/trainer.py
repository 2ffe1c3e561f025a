"""The run as Ray Train carries it out: its trainer, and what a worker does in it."""

import secrets
import sys
from pathlib import Path
from typing import Any

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import SisaScaleError, TrainingError
from sisa_scale.orchestration.cluster import Device
from sisa_scale.orchestration.drain import watch_for_drain
from sisa_scale.runs.diagnostics import Diagnostics
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.failure import note_failure
from sisa_scale.runs.layout import RAY
from sisa_scale.runs.owner import Fence, FencedError

# What a program gets wrong every time; a lost connection or a disk that fails is none of these.
_MISTAKES = (AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)


def build_trainer(config: RunConfig, device: Device, token: str) -> Any:
    """Return the trainer; its fit() ends when the workers do, or when they were lost too often.

    token: of the life that owns the run.
    """
    import ray.train

    from sisa_scale.compat.ray import LeanTrainer
    from sisa_scale.orchestration.failure_callback import DeathWatch
    from sisa_scale.orchestration.placement_callback import Placement
    from sisa_scale.orchestration.worker_places import WorkerPlaces

    resources = config.resources
    environment = {"OMP_NUM_THREADS": str(resources.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
    storage = config.directory / RAY
    storage.mkdir(parents=True, exist_ok=True)
    attempt = RunDirectory(config.directory).current_attempt() + 1
    num_workers = resources.workers if resources.min_workers is None else (resources.min_workers, resources.workers)
    return LeanTrainer(
        _work,
        is_cluster_ours=resources.ray_address is None,
        train_loop_config={"config": config, "device": device, "token": token, "command": sys.argv},
        backend_config=WorkerPlaces(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=device == "cuda",
            resources_per_worker=needs_of_worker(config, device),
            elastic_resize_monitor_interval_s=resources.resize_every_seconds,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt_{attempt:04d}_{secrets.token_hex(3)}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            callbacks=[DeathWatch(config.directory, token), Placement(config.directory, resources, token)],
            worker_runtime_env={"env_vars": environment},
        ),
    )


def needs_of_worker(config: RunConfig, device: Device) -> dict[str, float]:
    """Return what a worker takes of a node."""
    return {"CPU": config.resources.cpus_per_worker, **({"GPU": 1} if device == "cuda" else {})}


def _work(arguments: dict[str, Any]) -> None:
    import ray

    from sisa_scale.training.worker import work

    config: RunConfig = arguments["config"]
    try:
        if config.resources.ray_address is not None:  # else the cluster is ours, of one node that nobody drains
            watch_for_drain(config.directory)
        node, command = ray.get_runtime_context().get_node_id(), arguments["command"]
        with Fence(config.directory, arguments["token"]) as fence:
            work(config, arguments["device"], node, fence=fence, command=command)
    except FencedError:
        raise
    except SisaScaleError as error:
        note_failure(config.directory, error)
        raise
    except Exception as error:
        if would_come_again(config.directory, error):
            note_failure(config.directory, _recurring(config.directory, error))
        raise


def would_come_again(run_dir: Path, error: Exception) -> bool:
    """Whether workers that start anew would meet the same error: a mistake in a program, or too little memory.

    Memory that gave out later in an attempt may suffice the next time.
    """
    if type(error).__name__ == "OutOfMemoryError":
        return not RunDirectory(run_dir).has_gained()
    return isinstance(error, _MISTAKES)


def _recurring(run_dir: Path, error: Exception) -> TrainingError:
    lines = str(error).strip().splitlines() or [""]
    remedy = f"Its traceback is in {Diagnostics(run_dir, RunDirectory(run_dir).current_attempt()).directory}. "
    if type(error).__name__ == "OutOfMemoryError":
        remedy += "Lower execution.micro_batch_sequences, or set activation_checkpointing=full (`sisa-scale plan`). "
    return TrainingError.at(
        run_dir,
        found=f"{type(error).__name__}: {lines[0]}",
        allowed="this error would come again, so the workers are not started again",
        remedy=f"{remedy}With the cause removed, `sisa-scale resume {run_dir}` goes on.",
    )
