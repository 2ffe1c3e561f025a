"""The `sisa-scale` command. Subcommands are imported when they are called, so that --help is quick."""

import importlib
import sys
from typing import NoReturn

import click

import sisa_scale
from sisa_scale.cli.common.failing import print_error
from sisa_scale.errors import SisaScaleError
from sisa_scale.files import refusal_of
from sisa_scale.runs.exit_codes import end_beside_ray
from sisa_scale.runs.problems import RunDirectoryError

# Name -> (module, what it does); the help text stands here so that listing the commands imports none of them.
COMMANDS = {
    "quickstart": ("quickstart", "Train and evaluate a small SISA model on the text that comes with the package."),
    "train": ("train", "Begin the run that a recipe describes."),
    "resume": ("resume", "Continue a run from its newest checkpoint."),
    "submit": ("submit", "Send a run to a cluster: Ray, Slurm or Kubernetes."),
    "logs": ("logs", "Print what a submitted run prints."),
    "cancel": ("cancel", "Tell a submitted run to save and stop."),
    "doctor": ("doctor", "Check this machine or a cluster before a long run."),
    "status": ("status", "Say how a run stands: what it does now, its attempts, where the time went."),
    "profile": ("profile", "Look into the next steps of a run that lives: traces, kernels by kind, GPU memory."),
    "replay": ("replay", "Take one step of a run again, alone: its text, its losses, its gradients."),
    "evaluate": ("evaluate", "Score a run or a checkpoint."),
    "generate": ("generate", "Continue prompts with a trained model."),
    "convert": ("convert", "Write a checkpoint in another form: safetensors, Hugging Face, the paper's."),
    "average": ("average", "Average the weights of checkpoints."),
    "diff": ("diff", "Compare the weights of two checkpoints."),
    "inspect": ("inspect", "Show the tensors of a checkpoint and where it comes from."),
    "report": ("report", "Draw or compare runs as one HTML page."),
    "plan": ("plan", "Count parameters, FLOPs, memory, time and cost of a recipe."),
    "study": ("study.group", "Plan, run and report a scaling study: a grid of runs as one object."),
    "laws": ("laws.group", "Fit, compare, plan and forecast with scaling laws from a table of runs."),
    "config": ("config", "Show a resolved recipe, or where every value comes from."),
    "data": ("data.group", "Build, inspect and verify data sets."),
    "worker": ("worker", "Be one worker of a run under torchrun, without Ray."),
}


class LazyCommands(click.Group):
    """A group whose commands live in modules of the same package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a user's journey."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"sisa_scale.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sisa_scale.__version__, prog_name="sisa-scale")
def cli() -> None:
    """Pretrain SISA language models and their rivals, and compare them honestly."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and end with its exit code."""
    code = run(arguments)
    end_beside_ray(code)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command; errors that are the user's to act on end in a message. Returns the exit code."""
    try:
        return int(cli.main(args=arguments, prog_name="sisa-scale", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SisaScaleError as error:
        print_error(error)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        found, remedy = refusal_of(error)
        remedy += ", then run the same command again."
        refused = RunDirectoryError.at(error.filename, found=found, allowed="the command needs it", remedy=remedy)
        print_error(refused)
        return refused.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130


if __name__ == "__main__":
    main()
