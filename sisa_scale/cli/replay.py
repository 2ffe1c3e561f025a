"""`sisa-scale replay RUN_DIR --step N`."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sisa_scale.cli.common.console import announce, console, render
from sisa_scale.errors import ConfigError
from sisa_scale.runs.cursor import read_cursor
from sisa_scale.runs.recipe import read_recipe

if TYPE_CHECKING:
    from sisa_scale.training.replay import Pass, Recorded

_SNIPPET = 72


@click.command("replay")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--step", required=True, type=click.IntRange(1), help="Step as metrics.jsonl counts them, from 1.")
@click.option("--rank-batch", metavar="R/W", help="Only what rank R of W workers trains on.")
@click.option("--text", "whole_text", is_flag=True, help="Print the whole text of every sequence.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run_dir: Path, *, step: int, rank_batch: str | None, whole_text: bool, device: str, as_json: bool) -> None:
    """Take step --step of the run in RUN_DIR again, alone: its text and sources, losses, gradients.

    The weights are those of the nearest checkpoint before it. Forward and backward run in fp32 and in the run's
    precision; nothing of the run is changed.
    """
    config = read_recipe(run_dir)
    num_sequences = config.data.batches.sequences(read_cursor(run_dir).data_step(step - 1))
    rank, world_size = _share(rank_batch, num_sequences)
    from sisa_scale.data.read.trace import trace_sequence
    from sisa_scale.models.device import torch_device
    from sisa_scale.training.replay import load_before, recorded, replay_batch, run_pass

    data_step, batch = replay_batch(config, step, rank, world_size)
    noted = recorded(run_dir, step)
    place = torch_device(device)
    model, origin = load_before(config, step, place)
    first = rank * num_sequences // world_size
    precisions = dict.fromkeys(["fp32", config.execution.precision])
    passes = [run_pass(model, batch, precision, first) for precision in precisions]
    digest = f"{batch.digest:016x}"
    rows = []
    for result in passes[-1].sequences:
        found = trace_sequence(config.data, data_step, result.index)
        files = dict.fromkeys(document.file for document in found.documents if document.file)
        source = {"source": found.source, "shard": found.shard, "files": ", ".join(files) or None}
        norms = {"loss": result.loss, "gradient norm": result.gradient_norm}
        text = found.text if whole_text or as_json else found.text[:_SNIPPET].replace("\n", " ")
        rows.append({"sequence": result.index, **norms, **source, "text": text})
    facts = {
        "step": step,
        "data_step": data_step,
        "weights_after_step": origin.step,
        "weights": origin.where,
        "digest": digest if world_size == 1 else None,
        "digest_is_equal": _compare(digest, noted, world_size),
        "recorded": asdict(noted),
    }
    if as_json:
        render([], as_json=True, value={**facts, "passes": [asdict(each) for each in passes], "sequences": rows})
        return
    _print(facts, noted, passes, rows, whole_text=whole_text)


def _share(rank_batch: str | None, num_sequences: int) -> tuple[int, int]:
    if rank_batch is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", rank_batch)
    rank, world_size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not rank < world_size <= num_sequences:
        raise ConfigError.at(
            "--rank-batch",
            found=rank_batch,
            allowed=f"R/W with 0 <= R < W <= {num_sequences} sequences of the global batch",
            remedy="Give --rank-batch 0/2 for the first of two workers.",
        )
    return rank, world_size


def _compare(digest: str, noted: "Recorded", world_size: int) -> bool | None:
    """Return whether the tokens are those that the run trained on; None where that cannot be known."""
    return None if world_size > 1 or noted.stream_digest is None else digest == noted.stream_digest


def _print(
    facts: dict[str, Any], noted: "Recorded", passes: list["Pass"], rows: list[dict[str, Any]], *, whole_text: bool
) -> None:
    step, behind = facts["step"], facts["step"] - 1 - facts["weights_after_step"]
    exact = "exactly those that the step began with" if not behind else f"{behind} steps before those it began with"
    announce(f"weights after step {facts['weights_after_step']} ({facts['weights']}): {exact}")
    said = {
        True: "equal to the run's: these are the tokens that it trained on",
        False: f"NOT equal to the run's {noted.stream_digest}: these are other tokens",
        None: "not compared: a part of the batch, or no line in metrics.jsonl",
    }
    announce(
        f"data step {facts['data_step']}, digest {facts['digest'] or 'of a part'} {said[facts['digest_is_equal']]}"
    )
    compared = [{"what": f"recorded at step {step}", "loss": noted.loss, "gradient norm": noted.gradient_norm}]
    compared += [{"what": f"now, {p.precision}", "loss": p.loss, "gradient norm": p.gradient_norm} for p in passes]
    render(compared, as_json=False)
    names = passes[-1].group_norms
    groups = [{"parameters": name, **{p.precision: p.group_norms[name] for p in passes}} for name in names]
    render(groups, as_json=False, title="gradient norm by group")
    order = sorted(rows, key=lambda row: -row["loss"] if row["loss"] == row["loss"] else float("-inf"))
    if whole_text:
        for row in order:
            click.echo(
                click.style(f"--- sequence {row['sequence']}, loss {row['loss']:.4f}, {row['files']}", bold=True)
            )
            click.echo(row["text"])
    else:
        render(order, as_json=False, title=f"sequences, the highest loss first ({passes[-1].precision})")
    for each in passes:
        for line in each.non_finite:
            console.print(f"[red]not finite in {each.precision}:[/red] {line}", soft_wrap=True)
        if not each.non_finite:
            console.print(f"{each.precision}: every output and gradient is finite")
