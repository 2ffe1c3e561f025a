import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.data.manifest import MANIFEST_NAME, load_manifest, token_dtype
from sisa_scale.data.read.verify import verify_dataset
from sisa_scale.errors import DataError


def edit(dataset: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = dataset / MANIFEST_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_entropy(content: dict[str, Any]) -> None:
    content["splits"]["heldout"]["unigram_entropy_nats"] = 1.0


def swap_shards(content: dict[str, Any]) -> None:
    content["splits"]["train"]["shards"].reverse()


def test_round_trip(built: Path, tmp_path: Path) -> None:
    manifest = load_manifest(built)
    manifest.save(tmp_path)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == (built / MANIFEST_NAME).read_bytes()
    assert json.loads((built / MANIFEST_NAME).read_text())["fingerprint"] == manifest.fingerprint
    assert len(manifest.split("train").shards) > 2


def test_fingerprint_ignores_names_of_sources(dataset: Path) -> None:
    fingerprint = load_manifest(dataset).fingerprint
    edit(dataset, lambda content: content["sources"][0].update(name="elsewhere.jsonl"))
    edit(dataset, lambda content: content["tokenizer"].update(name="renamed"))
    assert load_manifest(dataset).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_entropy, "fingerprint"),
        (swap_shards, "fingerprint"),
        (lambda content: content.update(block_tokens=512), "fingerprint"),
        (lambda content: content.update(fingerprint="0" * 64), "fingerprint"),
        (lambda content: content.update(version=3), "version 3"),
        (lambda content: content.update(format="other"), "format 'other'"),
        (lambda content: content.pop("splits"), "no manifest"),
        (lambda content: content["splits"]["train"].pop("num_bytes"), "no manifest"),
        (lambda content: content["tokenizer"].update(extra=1), "no manifest"),
    ],
)
def test_changed_manifests_are_refused(dataset: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    edit(dataset, change)
    with pytest.raises(DataError, match=said):
        load_manifest(dataset)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b'{"format": 1'])
def test_other_files_are_refused(dataset: Path, raw: bytes) -> None:
    (dataset / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(DataError, match="no manifest"):
        load_manifest(dataset)


def test_missing_files_are_refused(dataset: Path) -> None:
    for name in ("train-000001.tar", "train-000001.idx.json", "tokenizer.json", MANIFEST_NAME):
        (dataset / name).rename(dataset / "aside")
        with pytest.raises(DataError, match=rf"{name}: found no such file"):
            load_manifest(dataset)
        (dataset / "aside").rename(dataset / name)


def test_truncated_shards_and_other_tokenizers_are_refused(dataset: Path) -> None:
    path = dataset / "train-000001.tar"
    raw = path.read_bytes()
    path.write_bytes(raw[:-512])
    with pytest.raises(DataError, match=f"{len(raw) - 512} bytes; the manifest says {len(raw)} bytes"):
        load_manifest(dataset)
    path.write_bytes(raw)
    (dataset / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: found the SHA-256"):
        load_manifest(dataset)


def test_unknown_split_names_what_there_is(built: Path) -> None:
    with pytest.raises(DataError, match="this data set has train, heldout"):
        load_manifest(built).split("test")


def test_verify_finds_every_flipped_bit(dataset: Path, flip_bit: Callable[[Path, int], None]) -> None:
    seen: Counter[str] = Counter()
    manifest = verify_dataset(str(dataset), lambda name, num_bytes: seen.update({name: num_bytes}))
    assert seen == {shard.name: shard.num_bytes for split in manifest.splits.values() for shard in split.shards}
    for name, offset in (("train-000001.tar", 100), ("heldout-000000.tar", 700), ("train-000000.idx.json", 30)):
        flip_bit(dataset / name, offset)
        with pytest.raises(DataError, match=name):
            verify_dataset(str(dataset))
        flip_bit(dataset / name, offset)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(258, "<u2"), (65536, "<u2"), (65537, "<u4"), (100_278, "<u4")])
def test_smallest_type_that_holds_every_id(vocab_size: int, dtype: str) -> None:
    assert token_dtype(vocab_size) == dtype


def test_manifest_imports_nothing_heavy() -> None:
    code = (
        "import sys, sisa_scale.data.manifest; sys.exit(bool({'torch', 'tokenizers', 'webdataset'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
