"""`sisa-scale data fetch [NAME]`."""

from pathlib import Path

import click

from sisa_scale.cli.common.console import announce, console, render


@click.command("fetch")
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: sources/NAME.")
@click.option("--gigabytes", type=click.FloatRange(min=0, min_open=True), help="The first files up to this size.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, out: Path | None, gigabytes: float | None, as_json: bool) -> None:
    """Fetch a public corpus or tokenizer by NAME; without NAME, list those there are.

    Every file is compared with the SHA-256 that its source states. A fetch that ends early goes on where it stopped.
    HF_ENDPOINT names a mirror of the Hugging Face Hub.
    """
    from sisa_scale.cli.common.progress import byte_progress
    from sisa_scale.data.fetch.catalogue import CATALOGUE
    from sisa_scale.data.fetch.fetch import entry_named, fetch, files_of

    if name is None:
        rows = [
            {"name": key, "kind": entry.kind, "what": entry.what, "size": entry.size, "licence": entry.licence}
            for key, entry in CATALOGUE.items()
        ]
        render(rows, as_json=as_json)
        return
    entry = entry_named(name)
    directory = out or Path("sources") / name
    files = files_of(entry, gigabytes * 1e9 if gigabytes else None)
    if not as_json:
        announce(f"{name}: {len(files)} files to {directory}; licence: {entry.licence}")
    with byte_progress(name) as advance:
        paths = fetch(name, entry, files, directory, advance)
    if as_json:
        render([], as_json=True, value={"name": name, "files": [str(path) for path in paths]})
    elif entry.kind == "corpus":
        console.print(f"[bold]next[/bold]    sisa-scale data build {directory} --tokenizer FILE --out data/{name}")
    else:
        console.print(f"[bold]next[/bold]    sisa-scale data build TEXT --tokenizer {paths[0]} --out data/NAME")
