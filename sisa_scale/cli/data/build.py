"""`sisa-scale data build`."""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sisa_scale.cli.common.console import announce, console

if TYPE_CHECKING:
    from sisa_scale.data.build.pipeline import BuildProgress, UnitRunner

_PLAIN_SECONDS = 10.0


@click.command("build")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--tokenizer", required=True, type=click.Path(path_type=Path), help="A tokenizer.json file.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory of the new data set."
)
@click.option("--eos-token", help="Token that ends documents; by default the usual one that the tokenizer has.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes; more than one: Ray.")
@click.option("--address", help="A running Ray cluster. All its nodes must see INPUTS and the directory of --out.")
@click.option("--block-tokens", default=1 << 19, show_default=True, help="A power of two that sequence lengths divide.")
@click.option("--blocks-per-shard", default=64, show_default=True, help="Blocks in one tar.")
@click.option("--heldout-fraction", default=0.01, show_default=True, help="Share of the documents that is held out.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of held-out documents.")
@click.option("--text-field", default="text", show_default=True, help="Field or column of the document; a.b: b in a.")
@click.option(
    "--on-bad-record",
    default="fail",
    show_default=True,
    type=click.Choice(["fail", "skip"]),
    help="fail: list bad records before anything is tokenized. skip: leave them out and list them.",
)
@click.option(
    "--normalization",
    default="none",
    show_default=True,
    type=click.Choice(["none", "nfc", "nfkc"]),
    help="Unicode form of the text.",
)
@click.option("--min-characters", default=1, show_default=True, help="Leave out shorter documents.")
@click.option("--min-tokens", default=1, show_default=True, help="Leave out shorter documents.")
@click.option("--deduplicate", is_flag=True, help="Of documents with equal text keep the first.")
@click.option(
    "--packing",
    default="concat",
    show_default=True,
    type=click.Choice(["concat", "best_fit"]),
    help="best_fit: no document shorter than a sequence is cut; the rest is padded.",
)
@click.option("--sequence-tokens", type=int, help="Length of the sequences of --packing best_fit.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "tokenizers", "fastokens", "gigatoken"]),
    help="What tokenizes; a fast engine is first checked against tokenizers.",
)
@click.option("--unit-bytes", default=64 << 20, show_default=True, help="Text that is worked on at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's figures as JSON.")
def command(
    inputs: tuple[str, ...],
    tokenizer: Path,
    out: Path,
    eos_token: str | None,
    workers: int,
    address: str | None,
    block_tokens: int,
    blocks_per_shard: int,
    heldout_fraction: float,
    seed: int,
    text_field: str,
    on_bad_record: str,
    normalization: str,
    min_characters: int,
    min_tokens: int,
    deduplicate: bool,
    packing: str,
    sequence_tokens: int | None,
    engine: str,
    unit_bytes: int,
    as_json: bool,
) -> None:
    """Turn INPUTS into WebDataset shards of tokens.

    INPUTS are .txt, .jsonl, .ndjson and .json files (plain, .gz, .zst, .xz or .bz2) and .parquet files, directories
    of them, quoted patterns, or URLs (https://, s3://, gs://). What a directory holds beside them is
    listed. A build that ends early is continued by the same command. The same inputs give the same bytes
    for any number of workers.
    """
    from sisa_scale.cli.data.inspect import render_manifest
    from sisa_scale.data.build.pipeline import build_dataset, run_here
    from sisa_scale.data.build.shards.staging import staging_path
    from sisa_scale.orchestration.data_build import ray_runner
    from sisa_scale.reporting.data_card import write_card

    notes = Console(stderr=True, highlight=False) if as_json else console

    def tell(text: str) -> None:
        notes.print(f"[dim]·[/dim] {text}", soft_wrap=True)

    with ExitStack() as stack:
        bar = stack.enter_context(_BuildBar(notes))
        run_units: UnitRunner = run_here
        if workers > 1 or address is not None:
            run_units = stack.enter_context(ray_runner(workers, address, tell))
        try:
            manifest = build_dataset(
                inputs,
                tokenizer=tokenizer,
                out=out,
                block_tokens=block_tokens,
                blocks_per_shard=blocks_per_shard,
                heldout_fraction=heldout_fraction,
                seed=seed,
                text_field=text_field,
                normalization=normalization,
                min_characters=min_characters,
                min_tokens=min_tokens,
                deduplicate=deduplicate,
                packing=packing,
                sequence_tokens=sequence_tokens,
                engine=engine,
                unit_bytes=unit_bytes,
                resumable=True,
                run_units=run_units,
                progress=bar.update,
                announce=tell,
                eos_token=eos_token,
                on_bad_record=on_bad_record,
            )
        except BaseException:
            if os.path.exists(staging_path(out)):  # noqa: PTH110 - raises nothing, whatever the name
                tell(f"what is done is kept in {staging_path(out)}; the same command continues")
            raise
    card = write_card(out)
    render_manifest(manifest, as_json)
    if not as_json:
        announce(f"wrote {card}")


class _BuildBar:
    """A live line for a build: documents, tokens, MB/s of text, ETA; without a terminal a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._stage = ""
        self._start = self._printed = time.monotonic()
        self._first: tuple[int, int] = (0, 0)

    def __enter__(self) -> "_BuildBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, progress: "BuildProgress") -> None:
        """Show how far a build is."""
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._start = progress.stage, now
            # What an earlier attempt had done was not done in this one's time.
            self._first = progress.num_done, progress.num_bytes
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(progress.stage, total=None, text="")
        seconds = max(now - self._start, 1e-3)
        num_done, num_bytes = progress.num_done - self._first[0], progress.num_bytes - self._first[1]
        text = f"{progress.num_documents:,} documents  {progress.num_tokens:,} tokens"
        if progress.stage != "assemble":
            text += f"  {num_bytes / 1e6 / seconds:,.1f} MB/s of text"
        if num_done > 0:
            text += f"  eta {(progress.num_total - progress.num_done) * seconds / num_done:,.0f} s"
        if self._console.is_terminal:
            self._bar.start()
            task = self._bar.task_ids[0]
            self._bar.update(task, total=max(1, progress.num_total), completed=progress.num_done, text=text)
        elif now - self._printed > _PLAIN_SECONDS:
            self._printed = now
            share = progress.num_done / max(1, progress.num_total)
            self._console.print(f"{progress.stage} {share:.0%}  {text}", soft_wrap=True)
