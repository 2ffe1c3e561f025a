"""A study directory.

study.yaml          the study as it was resolved       runs/TRIAL/    run directories: all that is known of the state
plan.json           its trials                         logs/TRIAL.log what the workers of a local trial print
runs.csv            what `collect` found               jobs/          submissions to a cluster
report/             the report                         submissions/   the same, by trial (Ray, Kubernetes)
tuning.json         the learning rates that were tuned lock           held while a local `submit` runs
forecast.json       of the largest trials, made before data/          the sample text, if it is used
"""

import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.config.loading.yaml_source import dump
from sisa_scale.config.run import to_plain
from sisa_scale.config.study import StudyConfig
from sisa_scale.errors import ConfigError, DataError, Problem
from sisa_scale.files import write_json, write_text
from sisa_scale.studies.trial import Trial

FORMAT = "sisa-scale-study-plan"
_MAY_DIFFER = ("run_dir", "recipe", "overrides")
_TUNED = ("learning_rate", "config_sha256")  # None in the plan until rates are tuned


@dataclass(frozen=True, slots=True)
class Planned:
    """A trial as plan.json has it; `values` are those of `Trial.to_plain`."""

    values: dict[str, Any]
    directory: Path

    @property
    def name(self) -> str:
        """Name of the trial."""
        return str(self.values["name"])

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return int(self.values["total_steps"])


class StudyDirectory:
    """One study on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan_path = path / "plan.json"

    def check(self, study: StudyConfig, trials: Sequence[Trial]) -> None:
        """Raise ConfigError where the directory belongs to another study."""
        if self.plan_path.exists():
            self._check_same(study, trials)

    def record(self, study: StudyConfig, trials: Sequence[Trial]) -> None:
        """Write what the study is, unless that stands there already, with all rates tuned."""
        if self.plan_path.exists() and self.is_settled:
            return
        write_text(self.path / "study.yaml", dump(to_plain(study)))
        plan = {"format": FORMAT, "study": study.name, "reference": study.reference}
        write_json(self.plan_path, {**plan, "trials": [trial.to_plain() for trial in trials]})

    def plan(self) -> dict[str, Any]:
        """Return plan.json; raises DataError where there is none."""
        try:
            plan = json.loads(self.plan_path.read_text())
        except (OSError, ValueError) as error:
            raise DataError.at(
                self.plan_path,
                found=str(error),
                allowed="a study directory holds its plan",
                remedy="Give the directory that `sisa-scale study submit` printed.",
            ) from error
        if isinstance(plan, dict) and "pieces" in plan:  # the word of version 0.1
            plan["trials"] = plan.pop("pieces")
        if not isinstance(plan, dict) or plan.get("format") != FORMAT:
            raise DataError.at(
                self.plan_path, found="another file", allowed=f"format {FORMAT}", remedy="Give a study directory."
            )
        return plan

    @property
    def is_settled(self) -> bool:
        """Whether the learning rates of all its trials stand in the plan."""
        return all(row.get("learning_rate", 0) is not None for row in self.plan()["trials"])

    def trials(self) -> list[Planned]:
        """Return the trials of the plan, in its order."""
        return self.planned(self.plan()["trials"])

    def planned(self, rows: Iterable[dict[str, Any]]) -> list[Planned]:
        """Return trials from what `Trial.to_plain` made of them."""
        return [Planned(row, self.path / "runs" / row["name"]) for row in rows]

    def log_path(self, name: str) -> Path:
        """Return where the workers of a local trial print to."""
        return self.path / "logs" / f"{name}.log"

    @property
    def is_locked(self) -> bool:
        """Whether a local `submit` is at work, as far as this machine can know."""
        if not (self.path / "lock").exists():
            return False
        try:
            with self.lock():
                return False
        except ConfigError:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only local `submit` of the study; raises ConfigError while there is another one."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError.at(
                    self.path,
                    found="another `study submit --to local` that is at work",
                    allowed="one at a time",
                    remedy="Wait for it, or stop it with Ctrl-C; what it has done is kept.",
                ) from None
            yield

    def _check_same(self, study: StudyConfig, trials: Sequence[Trial]) -> None:
        plan = self.plan()
        before = {row["name"]: row for row in plan["trials"]}
        now = {trial.name: trial.to_plain() for trial in trials}
        problems = []
        if plan["study"] != study.name:
            problems.append(self._other(f"the study {plan['study']}", f"this is {study.name}"))
        elif names := self._others(before, now):
            which = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            problems.append(self._other(f"a plan of {len(before)} trials", f"this one has {len(now)} ({which} differ)"))
        else:
            for name, row in now.items():
                known = before.get(name, row)
                keys = [key for key in row if key not in _MAY_DIFFER and row[key] != known.get(key)]
                keys = [key for key in keys if not (key in _TUNED and None in (row[key], known.get(key, 0)))]
                if keys:
                    said = ", ".join(f"{key} {before[name].get(key)}" for key in keys[:3])
                    wanted = ", ".join(f"{key} {row[key]}" for key in keys[:3])
                    problems.append(self._other(f"{name} with {said}", f"now {wanted}"))
        if problems:
            raise ConfigError.many(problems[:5])

    def _others(self, before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
        """Return the trials that one of two plans lacks; a sweep may grow until rates are settled."""
        names = sorted(before.keys() ^ now.keys())
        if self.is_settled:
            return names
        return [name for name in names if name in before or now[name]["role"] != "tuning"]

    def _other(self, found: str, allowed: str) -> Problem:
        remedy = "Choose another directory with study_dir=PATH, or submit the study as it was (study.yaml there)."
        return Problem(str(self.path), found, f"a study directory holds one study, {allowed}", remedy)
