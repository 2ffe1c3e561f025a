"""From a sequence of a step back to its text, its shard and its documents."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sisa_scale.config.data import DataConfig
from sisa_scale.data.build.shards.origins import Origin, find_origins, origins_name
from sisa_scale.data.read.documents import number_documents
from sisa_scale.data.read.sources import Source, tokenizer_path
from sisa_scale.data.read.storage import LocalStorage
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.data.shards import TokenArray
from sisa_scale.data.tokenizer import Tokenizer, load_tokenizer
from sisa_scale.errors import ConfigError, DataError

_BLOCKS_BACK = 64


@dataclass(frozen=True)
class TracedDocument:
    """A document of a sequence.

    number: within the sequence; first_token, num_tokens: where it stands there; file, record: where its text came from,
    None if the data set has no lists of documents; text_offset: characters of it before the sequence, None if it began
    too far before; text: what of it stands in the sequence.
    """

    number: int
    first_token: int
    num_tokens: int
    file: str | None
    record: int | None
    text_offset: int | None
    text: str


@dataclass(frozen=True)
class TracedSequence:
    """A sequence of a step. offset: of its first token in the shard, in bytes; text: all of it, decoded."""

    step: int
    index: int
    position: int
    source: str
    location: str
    epoch: int
    shard: str
    member: str
    block: int
    row: int
    offset: int
    documents: tuple[TracedDocument, ...]
    text: str


def trace_sequence(config: DataConfig, step: int, index: int) -> TracedSequence:
    """Return sequence `index` of the global batch of `step` (from 0) with all that is known of its origin.

    Raises ConfigError for an index outside the batch, DataError if the block is damaged.
    """
    num_sequences = config.batches.sequences(step)
    if not 0 <= index < num_sequences:
        raise ConfigError.at(
            "--index",
            found=str(index),
            allowed=f"the batch of step {step} has the sequences 0 to {num_sequences - 1}",
            remedy="Choose one of these.",
        )
    stream = TokenStream(config)
    place = stream.planner.global_batch(step).part(index, index + 1)
    source = stream.sources[int(place.source[0])]
    block, row = int(place.block[0]), int(place.row[0])
    tokens = source.reader.sequence(block, row, config.sequence_tokens)[:-1]
    tokenizer = load_tokenizer(tokenizer_path(config))
    shard, _, offset = source.reader.shard_of(block)
    return TracedSequence(
        step=step,
        index=index,
        position=int(place.position[0]),
        source=source.name,
        location=source.location,
        epoch=int(place.epoch[0]),
        shard=shard.name,
        member=f"{block:08d}.npy",
        block=block,
        row=row,
        offset=offset + row * config.sequence_tokens * source.manifest.item_bytes,
        documents=tuple(_documents(source, tokenizer, block, row * config.sequence_tokens, tokens)),
        text=tokenizer.decode(tokens.tolist()),
    )


def _documents(
    source: Source, tokenizer: Tokenizer, block: int, first_token: int, tokens: TokenArray
) -> Iterator[TracedDocument]:
    eos_id = source.manifest.eos_id
    numbers = number_documents(tokens[None], eos_id)[0]
    origins = _origins(source, block, first_token, tokens.size)
    for number in range(int(numbers[-1]) + 1):
        start, stop = int(numbers.searchsorted(number)), int(numbers.searchsorted(number, side="right"))
        piece = tokens[start:stop].tolist()
        if start and piece == [eos_id]:
            continue  # padding: no document is empty
        origin = next((origin for origin in reversed(origins) if origin.first_token <= start), None)
        yield TracedDocument(
            number=number,
            first_token=start,
            num_tokens=len(piece),
            file=origin.source if origin else None,
            record=origin.index if origin else None,
            text_offset=0 if start else _characters_before(source, tokenizer, block, first_token),
            text=tokenizer.decode([token for token in piece if token != eos_id]),
        )


def _characters_before(source: Source, tokenizer: Tokenizer, block: int, first_token: int) -> int | None:
    """Return how many characters of a document stand before a token of a block; None if it began too far back."""
    pieces: list[TokenArray] = []
    tokens = source.reader.block(block)[:first_token]
    for before in range(block - 1, block - 2 - _BLOCKS_BACK, -1):
        ends = np.flatnonzero(tokens == source.manifest.eos_id)
        pieces.insert(0, tokens[ends[-1] + 1 :] if ends.size else tokens)
        if ends.size or before < 0:
            return len(tokenizer.decode(np.concatenate(pieces).tolist()))
        tokens = source.reader.block(before)[:-1]
    return None


def _origins(source: Source, block: int, first_token: int, num_tokens: int) -> list[Origin]:
    storage, name = source.reader.storage, origins_name(source.reader.shard_of(block)[0].name)
    try:
        if isinstance(storage, LocalStorage):
            return find_origins(storage.directory, source.manifest, "train", block, first_token, num_tokens)
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / name).write_bytes(storage.read(name))
            return find_origins(Path(scratch), source.manifest, "train", block, first_token, num_tokens)
    except DataError:
        return []  # a data set of an earlier release
