"""`sisa-scale submit RECIPE --to local|ray|slurm|kubernetes`."""

from pathlib import Path

import click

from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.profile import TARGETS, Target


@click.command("submit")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="Where the run goes.")
@click.option("--profile", "profile_name", help="A cluster profile: the name of a shipped one, or a YAML file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the profile.")
@click.option("--address", help="http://HOST:PORT of Ray's job server (--to ray).")
@click.option("--study", is_flag=True, help="RECIPE is a list of runs, `RECIPE key=value ...` on each line (Slurm).")
@click.option("--dry-run", is_flag=True, help="Print exactly what would be written and run, and do nothing.")
@click.option("--follow", is_flag=True, help="Print what the job prints until it is over.")
def command(
    recipe: str,
    overrides: tuple[str, ...],
    target: Target,
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
    if study and target != "slurm":
        raise ConfigError.at(
            "--study", found=f"--to {target}", allowed="job arrays of Slurm", remedy="Submit the runs one by one."
        )
    from sisa_scale.cli import submitting
    from sisa_scale.launching.profiles.profile import load_profile

    profile = load_profile(target, profile_name, settings)
    plan = submitting.plan_study if study else submitting.plan
    planned = plan(recipe, overrides, profile)
    if dry_run:
        click.echo(planned.describe())
        return
    submitting.send(planned, Path.cwd(), follow=follow)
