from pathlib import Path

from data_sets import data_config

from sisa_scale.data.build.embedded import VOCAB_SIZE, build_embedded, embedded_text
from sisa_scale.data.build.texts.record_files import read_documents
from sisa_scale.data.read.heldout import read_heldout
from sisa_scale.data.read.stream import TokenStream

SHARDS = {"train": ["7f00531039fd631f"], "heldout": ["d4f2b542bae5b6b4"]}
BATCHES_FINGERPRINT = "862afa68d29187afc4e48d9cf7de2eab15b683857b8d419d948a3fd38b1e3ccb"


def test_the_sample_is_whole() -> None:
    sizes = [len(document.text.encode()) for document in read_documents([embedded_text()])]
    assert len(sizes) == 385
    assert 3_000_000 < sum(sizes) < 4_000_000
    assert max(sizes) < 15_000


def test_the_embedded_data_set_never_changes(tmp_path: Path) -> None:
    manifest = build_embedded(tmp_path / "embedded")
    assert manifest.tokenizer.vocab_size == VOCAB_SIZE
    assert manifest.split("heldout").num_documents == 19
    # Runs and published numbers are compared by these; a change of either is a change of the format or the order.
    shards = {name: [shard.sha256[:16] for shard in split.shards] for name, split in manifest.splits.items()}
    assert shards == SHARDS
    config = data_config(tmp_path / "embedded", sequences=32, length=256, seed=0)
    assert TokenStream(config).sha256(0, 10) == BATCHES_FINGERPRINT
    assert read_heldout(config, 2048, limit=16).sequences.shape == (16, 2049)
