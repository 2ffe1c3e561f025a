"""What `study submit` does once the command line is read: expand, check, run here or hand over."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import click

from sisa_scale.cli.console import announce, console
from sisa_scale.cli.starting import begin, reopen, with_absolute_paths
from sisa_scale.config.study import SAMPLE, StudyConfig
from sisa_scale.errors import Problem, TrainingError
from sisa_scale.launching.profiles.profile import LocalProfile, Profile
from sisa_scale.runs.exit_codes import PREEMPTED
from sisa_scale.runs.layout import holds_run
from sisa_scale.runs.stop_request import Reason
from sisa_scale.studies.branching import begin_branch
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.expansion import DATA, expand
from sisa_scale.studies.local_trials import LocalRunner, Result
from sisa_scale.studies.plan import check_budget, cost_of
from sisa_scale.studies.selection import check_names, select
from sisa_scale.studies.state import read_states
from sisa_scale.studies.trial import Piece


def submit(study: StudyConfig, profile: Profile, *, only: Sequence[str], at_once: int, dry_run: bool) -> None:
    """Run what is left of a study; raises ConfigError before anything is run, TrainingError when pieces failed."""
    study = replace(study, overrides=(*profile.resource_overrides, *study.overrides))
    pieces = expand(study)
    check_budget(study, cost_of(pieces, study.cost))
    check_names(only, [piece.name for piece in pieces])
    directory = StudyDirectory(study.directory)
    directory.check(study, pieces)
    if not dry_run:
        directory.record(study, pieces)
        _build_sample(study, pieces)
    is_local = isinstance(profile, LocalProfile)
    with directory.lock() if is_local and not dry_run else nullcontext():
        states = read_states(directory, directory.planned(piece.to_plain() for piece in pieces))
        chosen, left_out = select(pieces, states, only)
        announce(f"{directory.path}: {len(chosen)} of {len(pieces)} pieces to run")
        for status in left_out:
            name = status.piece.name
            announce(f"{name} has failed ({status.reason}); it is run again with --only {name}")
        if not isinstance(profile, LocalProfile):
            from sisa_scale.cli.study_cluster import hand_over

            hand_over(directory, chosen, states, profile, dry_run=dry_run)
        elif dry_run:
            for piece in chosen:
                announce(f"{piece.name}: {piece.role}, {piece.config.total_steps} steps from {piece.branch_step}")
        else:
            _run_here(directory, pieces, chosen, at_once)


def prepare(piece: Piece, trunk: Piece) -> None:
    """Claim the run directory of a piece, or check the one it has."""
    if holds_run(piece.directory):
        reopen(piece.directory, ())
    elif piece.role == "branch":
        begin_branch(trunk.directory, piece.branch_step, with_absolute_paths(piece.config))
    else:
        begin(piece.config)


def _build_sample(study: StudyConfig, pieces: Sequence[Piece]) -> None:
    out = study.directory / DATA
    if study.data != SAMPLE or out.exists():
        return
    from sisa_scale.data.build.embedded import build_embedded

    vocab_size = pieces[0].config.model.vocab_size
    announce(f"building {out} from the text that comes with the package, {vocab_size} token ids")
    build_embedded(out, vocab_size=vocab_size)


def _run_here(directory: StudyDirectory, pieces: Sequence[Piece], chosen: list[Piece], at_once: int) -> None:
    by_name = {piece.name: piece for piece in pieces}
    progress = _Progress(chosen)
    with _asked_to_stop() as reason:
        runner = LocalRunner(
            directory,
            pieces,
            at_once=at_once,
            prepare=lambda piece: prepare(piece, by_name[piece.trunk]),
            device_of=_device,
            stop_reason=reason,
            tell=progress.tell,
        )
        never = runner.run(chosen)
    problems = [
        Problem(
            result.piece.name,
            result.reason or "a failure",
            f"see {directory.log_path(result.piece.name)}",
            f"With the cause removed: sisa-scale study submit ... --only {result.piece.name}",
        )
        for result in runner.results
        if result.outcome == "failed"
    ]
    problems += [
        Problem(
            piece.name,
            f"no checkpoint of step {piece.branch_step} of its trunk {piece.trunk}",
            "a branch begins from it",
            f"Run the trunk first: --only {piece.trunk}",
        )
        for piece in never
    ]
    if problems:
        raise TrainingError.many(problems)
    if any(result.outcome == "stopped" for result in runner.results):
        console.print("[bold]next[/bold]   the same command goes on from here", soft_wrap=True)
        raise click.exceptions.Exit(PREEMPTED)
    console.print(f"[bold]next[/bold]   sisa-scale study report {directory.path}", soft_wrap=True)


def _device(piece: Piece) -> str:
    resources = piece.config.resources
    if resources.device != "auto":
        return resources.device
    import torch

    return "cuda" if torch.cuda.device_count() >= resources.workers else "cpu"


class _Progress:
    """One line for every piece that ends, with the time that the rest will take."""

    def __init__(self, chosen: Sequence[Piece]) -> None:
        self.total, self.done = len(chosen), 0
        self.flops_left = sum(piece.own_flops for piece in chosen)
        self.flops_done, self.started = 0.0, time.monotonic()

    def tell(self, result: Result) -> None:
        """Print how a piece ended."""
        self.done += 1
        self.flops_left -= result.piece.own_flops
        self.flops_done += result.piece.own_flops
        text = f"[{self.done}/{self.total}] {result.piece.name} {result.outcome} after {result.seconds:.0f} s"
        if result.loss is not None:
            text += f", held-out loss {result.loss:.4f}"
        if result.reason is not None:
            text += f": {result.reason}"
        left = (time.monotonic() - self.started) * self.flops_left / self.flops_done
        announce(text + (f"; about {left / 60:.0f} min left" if self.done < self.total else ""))


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], Reason | None]]:
    """Give a function that says whether a signal asked for checkpoints and a stop. A second SIGINT stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        asked.append(number)
        announce("saving and stopping; the same command goes on later")

    def reason() -> Reason | None:
        if not asked:
            return None
        return "interrupt" if asked[0] == signal.SIGINT else "preemption"

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield reason
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
