"""`sisa-scale study status STUDY_DIR`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click


@click.command("status")
@click.argument("study_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(study_dir: Path, as_json: bool) -> None:
    """Say how every trial of the study in STUDY_DIR stands, from its run directory."""
    from sisa_scale.cli.common.console import console, render
    from sisa_scale.studies.directory import StudyDirectory
    from sisa_scale.studies.state import STATES, read_states

    directory = StudyDirectory(study_dir)
    states = read_states(directory, directory.trials())
    if as_json:
        value = [
            {**{k: v for k, v in asdict(status).items() if k != "trial"}, "name": status.trial.name,
             "total_steps": status.trial.total_steps, "run_dir": str(status.trial.directory)}
            for status in states
        ]  # fmt: skip
        render([], as_json=True, value=value)
        return
    rows = [
        {
            "trial": status.trial.name,
            "role": status.trial.values["role"],
            "state": status.state,
            "step": status.step,
            "of": status.trial.total_steps,
            "held-out loss": status.loss,
            "reason": status.reason or "",
        }
        for status in states
    ]
    render(rows, as_json=False, title=str(study_dir))
    counts = Counter(status.state for status in states)
    for state, meaning in STATES.items():
        if counts[state]:
            console.print(f"{counts[state]:>4} {state:<9} {meaning}", soft_wrap=True)
