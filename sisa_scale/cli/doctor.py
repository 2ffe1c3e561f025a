"""`sisa-scale doctor [RECIPE]`."""

import sys
from dataclasses import asdict

import click

from sisa_scale.launching.registry import LAUNCHERS

_FAILED_EXIT_CODE = 1


@click.command("doctor")
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--to", "target", type=click.Choice(list(LAUNCHERS)), default="local", help="Where the run will go.")
@click.option("--profile", "profile_name", help="A cluster profile: the name of a shipped one, or a YAML file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the profile.")
@click.option("--ray", "ray_address", metavar="HOST:PORT", help="A running Ray cluster whose nodes are looked at.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    recipe: str | None,
    overrides: tuple[str, ...],
    target: str,
    profile_name: str | None,
    settings: tuple[str, ...],
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Check this machine, a cluster and RECIPE before a long run; the exit code is 1 when something failed."""
    from sisa_scale.cli.common.console import announce, render
    from sisa_scale.launching.doctor.doctor import examine
    from sisa_scale.launching.profiles.load import load_profile
    from sisa_scale.planning.twins import load_recipe

    profile = load_profile(target, profile_name, settings)
    config = load_recipe(recipe, (*profile.resource_overrides, *overrides)).config if recipe else None
    report = (lambda _name: None) if as_json else (lambda name: announce(f"checking {name}"))
    findings = examine(config, profile, ray_address, report)
    render([asdict(finding) for finding in findings], as_json=as_json, title="doctor")
    if any(finding.status == "failure" for finding in findings):
        sys.exit(_FAILED_EXIT_CODE)
