"""The order of a study on this machine: tuning and the rates it finds, smaller trials, the forecast, the largest."""

from collections.abc import Sequence
from typing import Literal

from sisa_scale.config.study import StudyConfig
from sisa_scale.errors import ConfigError, Problem, TrainingError
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.local import LocalStage, problems_of
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.expansion import expand
from sisa_scale.studies.results.forecasting import largest_of, register_forecast
from sisa_scale.studies.selection import select
from sisa_scale.studies.state import TrialStatus, read_states
from sisa_scale.studies.trial import Trial
from sisa_scale.studies.tuning.optima import has_diverged, is_over, read_tuning, settle, tuned_rates


def expand_tuned(study: StudyConfig) -> list[Trial]:
    """Return the trials of a study with the rates that its directory knows."""
    return expand(study, tuned_rates(read_tuning(study.directory)))


def tuned_trials(
    study: StudyConfig, directory: StudyDirectory, trials: list[Trial], reporter: Reporter
) -> list[Trial] | None:
    """Return the trials with their tuned rates, from now on those of the plan; None while tuning trials are left.

    Raises ConfigError where an optimum is at an edge of its sweep.
    """
    if not any(trial.is_untuned for trial in trials):
        return trials
    states = states_of(directory, [trial for trial in trials if trial.role == "tuning"])
    if not all(is_over(status) for status in states):
        return None
    for one in settle(directory.path, states):
        reporter.announce(f"learning rate of {one.architecture}: {one.optimum.text}")
        for note in one.optimum.notes:
            reporter.announce(f"  {note}")
    trials = expand_tuned(study)
    directory.check(study, trials)
    directory.record(study, trials)
    return trials


def run_stages(
    study: StudyConfig,
    directory: StudyDirectory,
    trials: list[Trial],
    *,
    only: Sequence[str],
    at_once: int,
    reporter: Reporter,
) -> Literal["finished", "stopped"]:
    """Run what is left of a study here; raises TrainingError when trials failed."""
    settled = tuned_trials(study, directory, trials, reporter)
    if settled is None:
        tuning = _left([trial for trial in trials if trial.role == "tuning"], directory, only)
        if LocalStage(directory, trials, tuning, at_once, reporter).run(tuning).is_stopped:
            return "stopped"
        settled = tuned_trials(study, directory, trials, reporter)
        if settled is None:
            _refuse_untuned(directory, trials, only)
            return "finished"
    chosen = [trial for trial in _left(settled, directory, only) if trial.role != "tuning"]
    largest = largest_of(settled)
    stage, problems = LocalStage(directory, settled, chosen, at_once, reporter), []
    for is_last in (False, True):
        part = [trial for trial in chosen if (trial.trunk in largest) == is_last]
        if is_last and part:
            reporter.announce(register_forecast(directory))
        ended = stage.run(part)
        problems += problems_of(directory, ended)
        if ended.is_stopped:
            break
    if problems:
        raise TrainingError.many(problems)
    return "stopped" if ended.is_stopped else "finished"


def states_of(directory: StudyDirectory, trials: Sequence[Trial]) -> list[TrialStatus]:
    """Return how trials stand."""
    return read_states(directory, directory.planned(trial.to_plain() for trial in trials))


def _left(trials: Sequence[Trial], directory: StudyDirectory, only: Sequence[str]) -> list[Trial]:
    return select(trials, states_of(directory, trials), only)[0]


def _refuse_untuned(directory: StudyDirectory, trials: Sequence[Trial], only: Sequence[str]) -> None:
    """Raise for tuning trials that failed, and for trials that were asked for before their rate is known."""
    states = states_of(directory, [trial for trial in trials if trial.role == "tuning"])
    problems = [
        Problem(
            status.trial.name,
            status.reason or "a failure",
            f"rates are chosen when all tuning trials have ended; see {directory.log_path(status.trial.name)}",
            f"With the cause removed: sisa-scale study submit ... --only {status.trial.name}",
        )
        for status in states
        if status.state == "failed" and not has_diverged(status)
    ]
    if problems:
        raise TrainingError.many(problems)
    untuned = [trial.name for trial in trials if trial.is_untuned and trial.name in only]
    if untuned:
        raise ConfigError.at(
            "trial",
            found=", ".join(untuned),
            allowed="its learning rate comes from tuning trials, which have not all ended",
            remedy="Submit without --only, or the tuning trials first.",
        )
