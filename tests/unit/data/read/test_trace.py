import json
from pathlib import Path

import pytest
from data_sets import data_config, open_stream

from sisa_scale.config.mixture import MixSource
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.trace import trace_sequence
from sisa_scale.data.read.verify import compare_datasets
from sisa_scale.data.tokenizer import load_tokenizer
from sisa_scale.errors import ConfigError


def test_a_sequence_leads_back_to_its_text(built: Path, texts: list[str]) -> None:
    config, tokenizer = data_config(built), load_tokenizer(built / "tokenizer.json")
    stream = open_stream(built)
    num_inner = 0
    for step, index in [(0, 0), (3, 5), (7, 11), (30, 2), (49, 1)]:
        found = trace_sequence(config, step, index)
        tokens = stream.batch(step, 0, 1).tokens_BL[index]
        assert found.text == tokenizer.decode(tokens.tolist())
        shard = (built / found.shard).read_bytes()
        assert shard[found.offset : found.offset + 128] == tokens.numpy().astype("<u2").tobytes()
        assert sum(document.num_tokens for document in found.documents) == 64
        for document in found.documents:
            assert document.file is not None
            assert document.file.endswith("corpus.jsonl")
            text, offset = texts[document.record or 0], document.text_offset
            assert offset is not None
            # A sequence may begin or end inside a character of several bytes.
            inner = document.text.strip("\N{REPLACEMENT CHARACTER}")
            assert inner in text
            assert abs(text.index(inner, max(0, offset - 1)) - offset) <= 2 or offset == 0
            num_inner += offset > 0
    assert num_inner >= 2


def test_files_of_one_name_are_told_apart_by_their_folders(tokenizer_path: Path, tmp_path: Path) -> None:
    for folder in ("2023", "2024"):
        (tmp_path / "snapshots" / folder).mkdir(parents=True)
        lines = [json.dumps({"text": f"page {number} of {folder} " * 9 if number % 2 else ""}) for number in range(20)]
        (tmp_path / "snapshots" / folder / "000.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    build_dataset([tmp_path / "snapshots"], tokenizer=tokenizer_path, out=out, block_tokens=256, heldout_fraction=0)
    files = set()
    for index in range(12):
        for document in trace_sequence(data_config(out), 0, index).documents:
            files.add(document.file)
            assert document.file is not None
            # The line of the file, from 0, those without text counted.
            line = (tmp_path / "snapshots" / document.file).read_text().split("\n")[document.record or 0]
            assert document.text.strip() in json.loads(line)["text"]
    assert files == {"2023/000.jsonl", "2024/000.jsonl"}


def test_indexes_outside_the_batch_are_refused(built: Path) -> None:
    with pytest.raises(ConfigError, match="the sequences 0 to 11"):
        trace_sequence(data_config(built), 0, 12)


def test_a_mixture_names_the_source(built: Path) -> None:
    mix = {name: MixSource(path=str(built), weight=1) for name in ("one", "two")}
    config = data_config(None, mix=mix)
    assert {trace_sequence(config, 0, index).source for index in range(12)} == {"one", "two"}


def test_differences_of_data_sets(built: Path, corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    assert compare_datasets(str(built), str(built)) == []
    other = tmp_path / "other"
    build_dataset([corpus], tokenizer=tokenizer_path, out=other, block_tokens=512, heldout_fraction=0.1)
    found = {difference.what: difference[1:] for difference in compare_datasets(str(built), str(other))}
    assert found["block_tokens"] == (256, 512)
    assert found["fingerprint"] == (load_manifest(built).fingerprint, load_manifest(other).fingerprint)
    assert "train num_shards" in found
    assert "train num_tokens" not in found
    assert "tokenizer sha256" not in found
