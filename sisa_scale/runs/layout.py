"""The names of the files of a run directory. They stand here and nowhere else.

config.yaml             the resolved recipe; a directory with it holds a run
deepspeed.json          DeepSpeed's configuration, generated from it
provenance.json         versions, source, hardware
attention_backend.json  the attention kernel that was measured to be the fastest
attempts.jsonl          one line for each life of the processes      attempts
metrics.jsonl           one line a step                              metrics
monitors.jsonl          half-life and lambda                         monitors
health.jsonl            gradients, logits, updates of every layer    health
evaluations.jsonl       scores by step                               evaluations
scored_later.jsonl      what `evaluate --record` measured            evaluations
samples.jsonl           prompts that were continued, by step         evaluations
data_events.jsonl       damaged sequences that were skipped          step_logs
events.jsonl            what happened to the run, never rewound      events
rollbacks.json          rollbacks, and the data they leave out       cursor
checkpoints/            one folder for each checkpoint               checkpoint.storage
diagnostics/            heartbeats, stacks of a hang, by attempt     diagnostics
stop                    asks the run to save and stop                stop_request
profile_request.json    asks for a look into the next steps          profile_request
failure.json            an error that would come again               failure
owner.json              which life may write to the run              owner
alive                   its sign of life                             owner
attempts/               recipe and provenance of each attempt        directory
abandoned/              lines of steps that a person went back behind   step_logs
begun_from.json         whose weights the run began with             directory
wandb_id                the id of the run at Weights & Biases
tensorboard/            files of TensorBoard's writer, where it is turned on
report.html             drawn at the end
jobs/                   submissions to a cluster                     launching.submission
ray/                    what Ray Train keeps
ray.log                 what Ray says of lost workers                compat.ray
"""

from pathlib import Path

CONFIG = "config.yaml"
DEEPSPEED = "deepspeed.json"
PROVENANCE = "provenance.json"
ATTENTION_BACKEND = "attention_backend.json"
ATTEMPTS = "attempts.jsonl"
METRICS = "metrics.jsonl"
MONITORS = "monitors.jsonl"
HEALTH = "health.jsonl"
EVALUATIONS = "evaluations.jsonl"
SCORED_LATER = "scored_later.jsonl"
SAMPLES = "samples.jsonl"
DATA_EVENTS = "data_events.jsonl"
EVENT_LOG = "events.jsonl"
ROLLBACKS = "rollbacks.json"
CHECKPOINTS = "checkpoints"
DIAGNOSTICS = "diagnostics"
STOP = "stop"
PROFILE_REQUEST = "profile_request.json"
FAILURE = "failure.json"
OWNER = "owner.json"
ALIVE = "alive"
ATTEMPT_RECORDS = "attempts"
ABANDONED = "abandoned"
BEGUN_FROM = "begun_from.json"
WANDB_ID = "wandb_id"
TENSORBOARD = "tensorboard"
REPORT = "report.html"
JOBS = "jobs"
RAY = "ray"
RAY_LOG = "ray.log"


def config_path(run_dir: Path) -> Path:
    """Return where the resolved recipe of a run lies."""
    return run_dir / CONFIG


def attempt_path(run_dir: Path, attempt: int) -> Path:
    """Return where the recipe and the provenance of an attempt lie."""
    return run_dir / ATTEMPT_RECORDS / f"{attempt:04d}"


def holds_run(directory: Path) -> bool:
    """Whether a directory holds a run."""
    return config_path(directory).is_file()


def find_runs(directory: Path, depth: int = 4) -> list[Path]:
    """Return a run, or the runs in a directory and below, as deep as studies have them; sorted."""
    level, found = [directory], list[Path]()
    for _ in range(depth + 1):
        found += [place for place in level if holds_run(place)]
        level = [inner for place in level if not holds_run(place) for inner in _folders(place)]
    return sorted(found)


def _folders(directory: Path) -> list[Path]:
    try:
        return [inner for inner in directory.iterdir() if inner.is_dir() and not inner.name.startswith(".")]
    except OSError:  # another's, or removed meanwhile
        return []
