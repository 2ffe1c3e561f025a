"""`sisa-scale data verify LOCATION`."""

import click

from sisa_scale.cli.common.console import announce, console


@click.command("verify")
@click.argument("location")
def command(location: str) -> None:
    """Read every byte of the data set at LOCATION (a directory or URL) and compare it with the manifest."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from sisa_scale.data.manifest import read_manifest
    from sisa_scale.data.read.verify import verify_dataset

    total = sum(shard.num_bytes for split in read_manifest(location).splits.values() for shard in split.shards)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=total)
        manifest = verify_dataset(
            location, lambda name, num_bytes: bar.update(task, advance=num_bytes, description=name)
        )
    announce(f"every file is as it was built: {total:,} bytes of shards, fingerprint {manifest.fingerprint}")
