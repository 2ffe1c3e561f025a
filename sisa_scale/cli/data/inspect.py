"""`sisa-scale data inspect LOCATION`."""

from typing import TYPE_CHECKING

import click

from sisa_scale.cli.common.console import announce, render

_MAX_NAMES = 5

if TYPE_CHECKING:
    from sisa_scale.data.manifest import Manifest


@click.command("inspect")
@click.argument("location")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(location: str, as_json: bool) -> None:
    """Print what the data set at LOCATION (a directory or URL) holds."""
    from sisa_scale.data.manifest import load_manifest

    render_manifest(load_manifest(location), as_json)


def render_manifest(manifest: "Manifest", as_json: bool) -> None:
    """Print the figures of a data set."""
    rows = [
        {
            "split": name,
            "documents": split.num_documents,
            "tokens": split.num_tokens,
            "bytes": split.num_bytes,
            "bytes_per_token": split.num_bytes / split.num_tokens,
            "unigram_entropy_nats": split.unigram_entropy_nats,
            "blocks": split.num_blocks,
            "shards": len(split.shards),
        }
        for name, split in manifest.splits.items()
    ]
    tokenizer = manifest.tokenizer
    value = {
        "fingerprint": manifest.fingerprint,
        "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
        "block_tokens": manifest.block_tokens,
        "dtype": manifest.dtype,
        "splits": rows,
        "sources": [source.name for source in manifest.sources],
    }
    build = manifest.build
    if build is not None:
        value |= {
            "heldout_rule": build.heldout_rule,
            "lost_share": build.lost_share,
            "removed": dict(build.num_removed),
            "passed_over": list(build.passed_over),
            "num_passed_over": build.num_passed_over,
            "bad_records": list(build.bad_records),
        }
    render(rows, as_json=as_json, title=f"fingerprint {manifest.fingerprint[:16]}...", value=value)
    if not as_json:
        announce(f"tokenizer {tokenizer.name}: {tokenizer.vocab_size:,} ids, sha256 {tokenizer.sha256[:16]}...")
        announce(f"blocks of {manifest.block_tokens:,} tokens stored as {manifest.dtype}")
        names = [source.name for source in manifest.sources]
        announce(f"read {len(names):,}: {_first(names)}")
        if build is not None and build.num_passed_over:
            announce(f"passed over {build.num_passed_over:,}: {_first([entry['name'] for entry in build.passed_over])}")
        if build is not None and build.num_removed.get("bad_record"):
            where = [f"{entry['file']} {entry['where']}".strip() for entry in build.bad_records]
            announce(f"left out {build.num_removed['bad_record']:,} bad records: {_first(where)}")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
