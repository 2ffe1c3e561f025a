"""Packed documents read apart: one run, whatever the number of workers and the micro-batch."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import metrics, start_workers

from sisa_scale.config.data import DataConfig
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.read.documents import IGNORED_TARGET
from sisa_scale.data.read.stream import TokenStream

ROUNDING_NATS = 2e-3
# Workers, sequences of a micro-batch, ZeRO stage, workers that share a sequence.
RUNS = {
    "one": (1, 8, 1, 1),
    "micro": (1, 1, 2, 1),
    "two": (2, 2, 1, 1),
    "partitioned": (2, 1, 3, 1),
    "shared": (2, 4, 1, 2),
}
WORDS = ["sea", "was", "calm", "and", "small", "boat", "lay", "near", "old", "stone", "pier", "under", "grey", "sky"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A data set where stretches of documents of a word or two take turns with long documents."""
    root, draw = tmp_path_factory.mktemp("documents"), random.Random(0)
    lengths = [length for _ in range(40) for length in (*(draw.randint(1, 3) for _ in range(120)), 500)]
    texts = [" ".join(draw.choices(WORDS, k=length)) for length in lengths]
    (root / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = root / "data"
    build_dataset(
        [root / "text.jsonl"], tokenizer=dataset / "tokenizer.json", out=out, block_tokens=1 << 12, heldout_fraction=0.2
    )
    return out


@pytest.fixture(scope="module")
def separate(documents: Path, write_recipe: Callable[[Path], Path]) -> Path:
    root = documents.parent
    recipe = write_recipe(root)
    settings = [f"data.path={documents}"]
    joined = [f"run_dir={root}/joined", *settings, "micro_batch_sequences=8"]
    jobs: dict[int, list[tuple[str, Path, list[str]]]] = {1: [("train", recipe, joined)], 2: []}
    for name, (workers, micro_batch, stage, sharing) in RUNS.items():
        overrides = ["data.documents=separate", f"micro_batch_sequences={micro_batch}", f"zero_stage={stage}"]
        overrides.append(f"sequence_parallel_size={sharing}")
        jobs[workers].append(("train", recipe, [f"run_dir={root}/{name}", *settings, *overrides]))
    for workers, runs in jobs.items():
        start_workers(workers, runs)
    return root


def test_sequences_have_very_different_numbers_of_targets(documents: Path) -> None:
    config = DataConfig(path=str(documents), sequence_tokens=64, global_batch_tokens=512, documents="separate")
    counts_B = (TokenStream(config).batch(0, 0, 1).targets_BL != IGNORED_TARGET).sum(1)
    assert counts_B.min() < 0.8 * counts_B.max()


@pytest.mark.parametrize("name", sorted(RUNS.keys() - {"one"}))
def test_workers_and_micro_batches_change_nothing(separate: Path, name: str) -> None:
    expected, found = metrics(separate / "one"), metrics(separate / name)
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert [line["tokens"] for line in found] == [line["tokens"] for line in expected]
    losses, wanted = ([line["loss"] for line in lines] for lines in (found, expected))
    assert losses == pytest.approx(wanted, abs=ROUNDING_NATS)
    norms, wanted = ([line["gradient_norm"] for line in lines] for lines in (found, expected))
    assert norms == pytest.approx(wanted, rel=2e-2)
    scores, wanted = (heldout_scores(separate / run) for run in (name, "one"))
    assert scores == pytest.approx(wanted, abs=10 * ROUNDING_NATS)


def heldout_scores(run_dir: Path) -> list[float]:
    (line,) = (run_dir / "evaluations.jsonl").read_text().splitlines()
    return [score["value"] for score in json.loads(line)["scores"] if score["metric"] in ("loss", "bits_per_byte")]


def test_the_tokens_are_those_of_joined_documents_and_the_losses_are_not(separate: Path) -> None:
    one, joined = metrics(separate / "one"), metrics(separate / "joined")
    assert [line["stream_digest"] for line in one] == [line["stream_digest"] for line in joined]
    assert [line["loss"] for line in one] != pytest.approx([line["loss"] for line in joined], abs=10 * ROUNDING_NATS)
