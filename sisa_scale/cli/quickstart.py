"""`sisa-scale quickstart`: the main job in small, from text to report."""

import time
from pathlib import Path

import click
from rich.markup import escape

from sisa_scale.api import generate, load_checkpoint, open_run
from sisa_scale.cli.common.console import announce, console
from sisa_scale.cli.common.running import run_and_describe
from sisa_scale.config import load_config
from sisa_scale.data.build.embedded import build_embedded
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.heldout import heldout_prompts
from sisa_scale.launching.start import begin


@click.command("quickstart")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(overrides: tuple[str, ...]) -> None:
    """Build the sample text, train a small SISA model on two CPU workers under Ray, evaluate it, draw a report.

    Takes a few minutes on two cores. OVERRIDES are those of `sisa-scale train`.
    """
    started = time.monotonic()
    config = load_config("quickstart", [f"run_dir={_free_run_dir()}", *overrides]).config
    directory = Path(config.data.path or "")
    if directory.exists():
        announce(f"the data set {directory} is there")
    else:
        announce(f"training a tokenizer and building {directory} from the text that comes with the package")
        build_embedded(directory)
    for name, split in load_manifest(directory).splits.items():
        announce(f"{name}: {split.num_documents} documents, {split.num_tokens:,} tokens")
    run_and_describe(begin(config))
    console.print(f"[bold]time[/bold]    {time.monotonic() - started:.0f} s")
    _show(config.directory)


def _show(run_dir: Path) -> None:
    """Say what the model has learned, let it speak, and name what to do next."""
    scores = {row.metric: row.value for row in open_run(run_dir).scores if row.task == "loss"}
    console.print(
        f"\nheld-out loss {scores['loss']:.2f} nats per token; guessing by token frequency alone gives "
        f"{scores['unigram_entropy']:.2f}. A model this small makes word salad:\n"
    )
    trained = load_checkpoint(run_dir)
    prompts = heldout_prompts(trained.config.data, trained.tokenizer.decode, 2)
    for prompt, text in zip(prompts, generate(trained, prompts, max_tokens=32, temperature=0.8, top_k=50), strict=True):
        console.print(f"  [dim]{escape(' '.join(prompt.split()))}[/dim] {escape(' '.join(text.split()))}\n")
    for command_line, what in (
        (f"sisa-scale report {run_dir}", "curves, scores and settings on one page"),
        (f"sisa-scale resume {run_dir} total='400 steps'", "train it further"),
        (
            "sisa-scale data build TEXT --tokenizer data/gutenberg-sample/tokenizer.json --out data/mine",
            "your own text",
        ),
    ):
        console.print(f"  {command_line}   [dim]# {what}[/dim]", soft_wrap=True)


def _free_run_dir() -> Path:
    """Return runs/quickstart, or the first runs/quickstart-N that no run has taken."""
    candidate, number = Path("runs/quickstart"), 1
    while candidate.exists():
        number += 1
        candidate = Path(f"runs/quickstart-{number}")
    return candidate
