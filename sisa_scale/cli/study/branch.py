"""`sisa-scale study branch STUDY_DIR TRIAL`: what the job of a branch does first on a cluster."""

from pathlib import Path

import click


@click.command("branch")
@click.argument("study_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("trial")
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
def command(study_dir: Path, trial: str, recipe: Path) -> None:
    """Begin TRIAL of the study in STUDY_DIR, whose resolved recipe is RECIPE, as a copy of its trunk at its step."""
    from sisa_scale.config.loading.load import load_config
    from sisa_scale.launching.start import with_absolute_paths
    from sisa_scale.studies.branching import begin_branch
    from sisa_scale.studies.directory import StudyDirectory
    from sisa_scale.studies.selection import check_names

    planned = {row.name: row for row in StudyDirectory(study_dir).trials()}
    check_names([trial], list(planned))
    row = planned[trial]
    trunk = planned[row.values["trunk"]]
    begin_branch(trunk.directory, row.values["branch_step"], with_absolute_paths(load_config(recipe).config))
