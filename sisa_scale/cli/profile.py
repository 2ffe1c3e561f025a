"""`sisa-scale profile RUN_DIR`."""

import json
import time
from pathlib import Path
from typing import Any

import click

from sisa_scale.errors import ConfigError

_POLL_SECONDS = 0.2
_SHOWN_KERNELS = 12


@click.command("profile")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", type=click.IntRange(1, 100), default=3, show_default=True, help="Steps to look into.")
@click.option("--ranks", default="0", show_default=True, help="Ranks, as 0,3, or all.")
@click.option("--memory", "is_memory", is_flag=True, help="Write the GPU's allocations instead of a trace.")
@click.option("--no-wait", is_flag=True, help="Ask, and do not wait for what is seen.")
def command(run_dir: Path, *, steps: int, ranks: str, is_memory: bool, no_wait: bool) -> None:
    """Look into the next steps of the run that lives in RUN_DIR: a trace of each rank, and its kernels by kind.

    The run goes on and its numbers stay the same to the last bit. Traces open in ui.perfetto.dev, memory snapshots in
    pytorch.org/memory_viz; both read the file in the browser.
    """
    from sisa_scale.cli.common.console import announce
    from sisa_scale.reporting.status import read_status
    from sisa_scale.runs.profile_request import ProfileRequest, withdraw_profile_request, write_profile_request

    chosen = _ranks(ranks)
    status = read_status(run_dir)
    if status.state not in ("running", "starting"):
        raise ConfigError.at(
            run_dir,
            found=f"a run that is {status.state}",
            allowed="steps are profiled while they are taken",
            remedy=f"Begin it again with `sisa-scale resume {run_dir}`, then ask.",
        )
    _check(run_dir, status.attempts[-1].world_size if status.attempts else None, chosen, is_memory=is_memory)
    known = len(_answers(run_dir))
    write_profile_request(run_dir, ProfileRequest(steps, chosen, is_memory))
    announce("asked the run; it begins after the step that is under way")
    if no_wait:
        return
    try:
        answer = _wait(run_dir, known)
    finally:
        if withdraw_profile_request(run_dir):
            announce("the request is withdrawn")
    _show(run_dir, answer)


def _ranks(text: str) -> tuple[int, ...] | None:
    if text == "all":
        return None
    try:
        ranks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        ranks = (-1,)
    if ranks[0] < 0:
        raise click.BadParameter(f"{text!r} are no ranks; write them as 0,3, or all", param_hint="--ranks")
    return ranks


def _check(run_dir: Path, world_size: int | None, ranks: tuple[int, ...] | None, *, is_memory: bool) -> None:
    """Raise ConfigError for what the run would refuse, as far as its files tell."""
    from sisa_scale.runs.files import read_run

    if world_size is not None and ranks is not None and ranks[-1] >= world_size:
        raise ConfigError.at(
            "--ranks",
            found=f"rank {ranks[-1]}",
            allowed=f"the run has ranks 0 to {world_size - 1}",
            remedy="Choose of these, or all.",
        )
    hardware = read_run(run_dir).provenance.get("hardware") if is_memory else None
    if isinstance(hardware, dict) and not hardware.get("gpus"):
        raise ConfigError.at(
            "--memory",
            found="a run on CPUs",
            allowed="a memory snapshot is of a GPU",
            remedy="Leave --memory out: a trace of the steps is written.",
        )


def _answers(run_dir: Path) -> list[dict[str, Any]]:
    from sisa_scale.runs.logs.events import read_events

    return [event for event in read_events(run_dir) if event["event"] in ("profile", "profile_refused")]


def _wait(run_dir: Path, known: int) -> dict[str, Any]:
    """Return the answer of the run; raises ConfigError when it ends without one."""
    from sisa_scale.reporting.status import read_status

    looks = 0
    while True:
        answers = _answers(run_dir)[known:]
        if answers:
            return answers[-1]
        looks += 1
        if looks % 50 == 0 and (state := read_status(run_dir).state) not in ("running", "starting"):
            raise ConfigError.at(
                run_dir,
                found=f"a run that is {state}",
                allowed="it ended before its steps were profiled",
                remedy=f"`sisa-scale status {run_dir}` says why.",
            )
        time.sleep(_POLL_SECONDS)


def _show(run_dir: Path, answer: dict[str, Any]) -> None:
    from sisa_scale.cli.common.console import announce, console
    from sisa_scale.runs.logs.events import describe

    if answer["event"] == "profile_refused":
        raise ConfigError.at(
            run_dir, found=answer["reason"], allowed="the run refused the request", remedy="Ask for something else."
        )
    announce(describe(answer) or "")
    for table in sorted((run_dir / answer["directory"]).glob("kernels_*.json")):
        found = json.loads(table.read_text())
        console.print(f"{table.stem.replace('_', ' of rank ')}, milliseconds a step", markup=False)
        for kind, milliseconds in found["by_kind_ms"].items():
            console.print(f"{milliseconds:12.2f}  {kind}", markup=False)
        for milliseconds, count, name in found["longest"][:_SHOWN_KERNELS]:
            console.print(f"{milliseconds:12.2f}  {count:6d} x  {name}", markup=False, soft_wrap=True)
