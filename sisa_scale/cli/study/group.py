"""`sisa-scale study`: a scaling study as one object. Subcommands are imported when they are called."""

import importlib

import click

_COMMANDS = {
    "plan": ("study.plan", "Show the runs of a study, how closely twins match, and what it costs."),
    "submit": ("study.submit", "Run a study, or what is left of it, here or on a cluster."),
    "branch": ("study.branch", "Begin one branch from its trunk, as jobs on a cluster do."),
    "status": ("study.status", "Say how every run of a study stands."),
    "collect": ("study.collect", "Write the table of the finished runs that `laws` reads."),
    "report": ("study.report", "Collect, fit, compare and draw a study."),
    "reproduce-paper": ("study.reproduce_paper", "Put the paper's numbers beside those of your runs."),
}


class _LazyStudy(click.Group):
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


@click.group("study", cls=_LazyStudy)
def command() -> None:
    """Plan, run, collect and report a scaling study.

    STUDY is a file, or the name of a shipped one such as studies/cpu-tiny. Everything known of a study stands in the
    run directories of its trials: any command may be interrupted and given again.
    """
