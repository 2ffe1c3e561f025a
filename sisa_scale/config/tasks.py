"""The evaluation tasks by name. A task of the package is one line here; another package registers its own."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from sisa_scale.config.places import load_extensions
from sisa_scale.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task: its name, and the place of `build(resources, name)`, which returns an `evaluation.tasks.task.Task`.

    headlines: the metrics that summaries and comparisons of runs show, and what they call them.
    """

    name: str
    build: str
    headlines: tuple[tuple[str, str], ...] = ()


# Tasks of questions with choices, each on a file of its name.
CHOICE_TASKS = ("hellaswag", "arc_easy", "piqa", "winogrande")

_HELDOUT = "sisa_scale.evaluation.tasks.heldout:build"
_CURVE = "sisa_scale.evaluation.tasks.needle_curve:build"
_CHOICES = "sisa_scale.evaluation.tasks.choices:build"
_TASKS = {
    task.name: task
    for task in (
        TaskSpec("loss", _HELDOUT, (("loss", "Held-out loss"), ("bits_per_byte", "Held-out bits per byte"))),
        TaskSpec("lambada", "sisa_scale.evaluation.tasks.lambada:build", (("accuracy", "Last word"),)),
        TaskSpec("needle", "sisa_scale.evaluation.tasks.needle:build", (("exact_match", "Needle"),)),
        TaskSpec("needle-paper", "sisa_scale.evaluation.tasks.needle_paper:build"),
        TaskSpec("needle-curve", _CURVE),
        TaskSpec("needle-multikey", _CURVE),
        TaskSpec("variable-tracking", "sisa_scale.evaluation.tasks.variable_tracking:build"),
        TaskSpec("recall", "sisa_scale.evaluation.tasks.recall:build"),
        TaskSpec("position-loss", "sisa_scale.evaluation.tasks.position_loss:build"),
        *(TaskSpec(name, _CHOICES) for name in CHOICE_TASKS),
    )
}


def register_task(spec: TaskSpec) -> None:
    """Add a task. Raises ValueError for a name that another task has."""
    if _TASKS.get(spec.name, spec) != spec:
        raise ValueError(f"there is a task {spec.name!r} already; choose another name")
    _TASKS[spec.name] = spec


def task_specs() -> tuple[TaskSpec, ...]:
    """Return all tasks, the package's own first."""
    load_extensions()
    return tuple(_TASKS.values())


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(spec.name for spec in task_specs())


def task_spec(name: str) -> TaskSpec:
    """Return a task; raises ConfigError that lists all names for an unknown one."""
    check_tasks([name])
    return next(spec for spec in task_specs() if spec.name == name)


def check_tasks(tasks: Iterable[str]) -> None:
    """Raise ConfigError for the first unknown task name."""
    names = task_names()
    for name in tasks:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise ConfigError.at(
                "evaluation tasks",
                found=repr(name),
                allowed=f"tasks are {', '.join(names)}",
                remedy=f"Did you mean {close[0]!r}?" if close else "Remove it or choose one of these.",
            )
