"""`sisa-scale laws`: scaling laws from a table of runs. Subcommands are imported when they are called."""

import importlib

import click

_COMMANDS = {
    "fit": ("laws.fit", "Fit a law and give its intervals."),
    "isoflop": ("laws.isoflop", "Find the best size at each budget from parabolas."),
    "optimal": ("laws.optimal", "Split a budget of FLOPs into parameters and tokens."),
    "compare": ("laws.compare", "Say how much less one architecture needs than another."),
    "design": ("laws.design", "Rank grids of runs before any is made."),
    "forecast": ("laws.forecast", "Register a forecast, or score it."),
    "report": ("laws.report", "Draw everything as an HTML page with SVG figures and CSV files."),
}


class _LazyLaws(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"sisa_scale.cli.{_COMMANDS[cmd_name][0]}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group("laws", cls=_LazyLaws)
def command() -> None:
    """Fit, compare, plan and forecast with scaling laws.

    A CSV with params_scaling, tokens and loss (nats per token) is enough; train_flops, seconds, architecture, run_id
    and trunk_id are used where present.
    """
