"""What `study submit` does: expand, check, run here or hand over."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

from sisa_scale.config.study import SAMPLE, StudyConfig
from sisa_scale.launching.launcher import ClusterLauncher
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.registry import launcher_for
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.cluster import hand_over
from sisa_scale.launching.study.stages import expand_tuned, run_stages, states_of, tuned_trials
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.expansion import DATA
from sisa_scale.studies.plan import check_budget, cost_of
from sisa_scale.studies.results.forecasting import largest_of, register_forecast
from sisa_scale.studies.selection import check_names, select
from sisa_scale.studies.trial import Trial

Ending = Literal["finished", "stopped", "handed over", "planned"]


def submit(
    study: StudyConfig, profile: Profile, *, only: Sequence[str], at_once: int, dry_run: bool, reporter: Reporter
) -> Ending:
    """Run what is left of a study; raises ConfigError before anything is run, TrainingError when trials failed."""
    launcher = launcher_for(profile)
    study = replace(study, overrides=(*profile.resource_overrides, *study.overrides))
    trials = expand_tuned(study)
    check_budget(study, cost_of(trials, study.cost))
    check_names(only, [trial.name for trial in trials])
    directory = StudyDirectory(study.directory)
    directory.check(study, trials)
    if not dry_run:
        directory.record(study, trials)
        _build_sample(study, trials, reporter)
    is_local = not isinstance(launcher, ClusterLauncher)
    with directory.lock() if is_local and not dry_run else nullcontext():
        if not is_local and not dry_run:
            trials = tuned_trials(study, directory, trials, reporter) or trials
        states = states_of(directory, trials)
        chosen, left_out = select(trials, states, only)
        reporter.announce(f"{directory.path}: {len(chosen)} of {len(trials)} trials to run")
        for status in left_out:
            name = status.trial.name
            reporter.announce(f"{name} has failed ({status.reason}); it is run again with --only {name}")
        if isinstance(launcher, ClusterLauncher):
            known = [trial for trial in chosen if not trial.is_untuned]
            if len(known) < len(chosen):
                reporter.announce(f"{len(chosen) - len(known)} wait for tuned learning rates: submit again later")
            if not dry_run and known and all(trial.trunk in largest_of(trials) for trial in known):
                reporter.announce(register_forecast(directory))
            hand_over(directory, known, states, launcher, profile, dry_run=dry_run, reporter=reporter)
            return "planned" if dry_run else "handed over"
        if dry_run:
            for trial in chosen:
                rate = "tuned" if trial.is_untuned else f"{trial.config.optimizer.learning_rate:g}"
                steps = f"{trial.config.total_steps} steps from {trial.branch_step}, learning rate {rate}"
                reporter.announce(f"{trial.name}: {trial.role}, {steps}")
            return "planned"
        return run_stages(study, directory, trials, only=only, at_once=at_once, reporter=reporter)


def _build_sample(study: StudyConfig, trials: Sequence[Trial], reporter: Reporter) -> None:
    out = study.directory / DATA
    if study.data != SAMPLE or out.exists():
        return
    from sisa_scale.data.build.embedded import build_embedded

    vocab_size = trials[0].config.model.vocab_size
    reporter.announce(f"building {out} from the text that comes with the package, {vocab_size} token ids")
    build_embedded(out, vocab_size=vocab_size)
