"""Can the runs of a study be compared? Equal data, equal evaluation, before anything is run."""

from collections.abc import Sequence
from typing import Any

from sisa_scale.config.loading.yaml_source import flatten_plain
from sisa_scale.config.run import to_plain
from sisa_scale.errors import ConfigError, Problem
from sisa_scale.studies.trial import Trial

_FREE = ("data.seed", "data.loader_workers", "data.cache_directory", "data.cache_bytes", "evaluation.batch_sequences")


def check_comparable(trials: Sequence[Trial]) -> None:
    """Raise ConfigError where runs read other data, measure otherwise, or share a directory."""
    first, *others = trials
    expected = _compared(first)
    problems: dict[str, Problem] = {}
    for trial in others:
        found = _compared(trial)
        for key in sorted(expected.keys() | found.keys()):
            if expected.get(key) != found.get(key):
                problems.setdefault(
                    key,
                    Problem(
                        f"{trial.name} {key}",
                        str(found.get(key)),
                        f"runs of a study are measured alike, and {first.name} has {expected.get(key)}",
                        "Give all architectures the same data and evaluation, or make two studies.",
                    ),
                )
    if problems:
        raise ConfigError.many(problems.values())
    for trial in trials:
        loss = "loss" in trial.config.evaluation.tasks
        if not loss:
            raise ConfigError.at(
                f"{trial.name} evaluation.tasks",
                found=str(list(trial.config.evaluation.tasks)),
                allowed="a study is fitted to the held-out loss at the end of a run",
                remedy="Add loss to evaluation.tasks.",
            )


def _compared(trial: Trial) -> dict[str, Any]:
    plain = to_plain(trial.config)
    flat = flatten_plain("data", plain["data"], "") | flatten_plain("evaluation", plain["evaluation"], "")
    flat |= flatten_plain("model.vocab_size", plain["model"]["vocab_size"], "")
    return {key: setting.value for key, setting in flat.items() if key not in _FREE}
