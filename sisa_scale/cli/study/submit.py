"""`sisa-scale study submit STUDY --to TARGET`."""

import click

from sisa_scale.launching.registry import LAUNCHERS


@click.command("submit")
@click.argument("study")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--to", "target", type=click.Choice(list(LAUNCHERS)), required=True, help="Where the runs go.")
@click.option("--profile", "profile_name", help="A cluster profile: the name of a shipped one, or a YAML file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the profile.")
@click.option("--only", multiple=True, metavar="TRIAL", help="Run this trial alone, even if it has failed before.")
@click.option("--at-once", default=1, show_default=True, type=click.IntRange(1), help="Local trials at a time.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and do nothing.")
def command(
    study: str,
    overrides: tuple[str, ...],
    target: str,
    profile_name: str | None,
    settings: tuple[str, ...],
    only: tuple[str, ...],
    at_once: int,
    dry_run: bool,
) -> None:
    """Run STUDY, or what is left of it: finished trials are skipped, stopped ones go on from their checkpoints.

    A trial that failed is named and left alone until it is asked for with --only. Locally, Ctrl-C saves and stops.
    """
    from sisa_scale.cli.common.console import console
    from sisa_scale.cli.common.reporter import ConsoleReporter
    from sisa_scale.config.study import load_study
    from sisa_scale.launching.profiles.load import load_profile
    from sisa_scale.launching.study.submit import submit
    from sisa_scale.runs.exit_codes import PREEMPTED

    profile = load_profile(target, profile_name, settings)
    config = load_study(study, overrides)
    ending = submit(config, profile, only=only, at_once=at_once, dry_run=dry_run, reporter=ConsoleReporter())
    if ending == "stopped":
        console.print("[bold]next[/bold]   the same command goes on from here", soft_wrap=True)
        raise click.exceptions.Exit(PREEMPTED)
    if ending == "finished":
        console.print(f"[bold]next[/bold]   sisa-scale study report {config.directory}", soft_wrap=True)
