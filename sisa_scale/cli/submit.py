"""`sisa-scale submit RECIPE --to TARGET`."""

import sys

import click

from sisa_scale.launching.registry import LAUNCHERS, launcher_of


@click.command("submit")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--to", "target", type=click.Choice(list(LAUNCHERS)), required=True, help="Where the run goes.")
@click.option("--profile", "profile_name", help="A cluster profile: the name of a shipped one, or a YAML file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the profile.")
@click.option("--address", help="http://HOST:PORT of Ray's job server (--to ray).")
@click.option("--study", is_flag=True, help="RECIPE is a list of runs, `RECIPE key=value ...` on each line (Slurm).")
@click.option("--dry-run", is_flag=True, help="Print exactly what would be written and run, and do nothing.")
@click.option("--follow", is_flag=True, help="Print what the job prints until it is over.")
def command(
    recipe: str,
    overrides: tuple[str, ...],
    target: str,
    profile_name: str | None,
    settings: tuple[str, ...],
    address: str | None,
    study: bool,
    dry_run: bool,
    follow: bool,
) -> None:
    """Send the run of RECIPE to a cluster; submitted again, it continues where it stands.

    The profile says how many workers there are; OVERRIDES go before it. `sisa-scale logs` and `sisa-scale cancel` take
    the run directory that is printed.
    """
    if address is not None:
        if target != "ray":
            raise click.UsageError("--address belongs to --to ray.")
        settings = (*settings, f"address='{address}'")
    from sisa_scale.cli.common.reporter import ConsoleReporter
    from sisa_scale.cli.common.running import describe
    from sisa_scale.launching.launcher import Ended
    from sisa_scale.launching.profiles.load import load_profile
    from sisa_scale.launching.submit import plan, plan_list, send

    reporter = ConsoleReporter()
    profile = load_profile(target, profile_name, settings)
    planned = (plan_list if study else plan)(recipe, overrides, profile, reporter)
    if dry_run:
        click.echo(planned.describe())
        return
    handed = send(planned, reporter)
    if isinstance(handed, Ended):
        describe(handed)
    elif follow:
        sys.exit(0 if launcher_of(handed).follow(handed, reporter) else 1)
