"""`sisa-scale study submit STUDY --to local|ray|slurm|kubernetes`."""

import click

from sisa_scale.launching.profiles.profile import TARGETS, Target


@click.command("submit")
@click.argument("study")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="Where the runs go.")
@click.option("--profile", "profile_name", help="A cluster profile: the name of a shipped one, or a YAML file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the profile.")
@click.option("--only", multiple=True, metavar="PIECE", help="Run this piece alone, even if it has failed before.")
@click.option("--at-once", default=1, show_default=True, type=click.IntRange(1), help="Local pieces at a time.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and do nothing.")
def command(
    study: str,
    overrides: tuple[str, ...],
    target: Target,
    profile_name: str | None,
    settings: tuple[str, ...],
    only: tuple[str, ...],
    at_once: int,
    dry_run: bool,
) -> None:
    """Run STUDY, or what is left of it: finished pieces are skipped, stopped ones go on from their checkpoints.

    A piece that failed is named and left alone until it is asked for with --only. Locally, Ctrl-C saves and stops.
    """
    from sisa_scale.cli import study_submitting
    from sisa_scale.config.study import load_study
    from sisa_scale.launching.profiles.profile import load_profile

    profile = load_profile(target, profile_name, settings)
    study_submitting.submit(load_study(study, overrides), profile, only=only, at_once=at_once, dry_run=dry_run)
