"""The batches of a run: a pure function of (data sets, mixture, seed, step), divided over the ranks by arithmetic.

Shapes: B sequences of a rank, L tokens of a sequence, M = L + 1 tokens as stored, X bytes of those and their position.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from sisa_scale.config.data import DataConfig
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.order.plan import Plan, Planner
from sisa_scale.data.order.usage import SourceUse, check_limits, source_use
from sisa_scale.data.packing import is_ignored
from sisa_scale.data.read.buffers import ArrayPool
from sisa_scale.data.read.documents import IGNORED_TARGET, separate_targets
from sisa_scale.data.read.read_ahead import read_ahead
from sisa_scale.data.read.skipping import Event, skip_damaged
from sisa_scale.data.read.sources import build_mixture, open_sources
from sisa_scale.data.shards import TokenArray
from sisa_scale.errors import ConfigError

if TYPE_CHECKING:
    import torch

DIGEST_MODULUS = 1 << 62

T = TypeVar("T")

_POSITION_BYTES = 8
_POOLED_ARRAYS = 32  # three of a batch
_REQUESTED_STEPS = 32  # whose blocks are fetched from a server in advance


@dataclass(frozen=True)
class Batch:
    """The part of one step's global batch that one rank trains on.

    tokens_BL, targets_BL: int64 tensors on the CPU, (sequences of this rank, sequence_tokens); a target is the token
    after, or -100 where there is nothing to learn: padding, and what stands in for a damaged sequence. B may differ by
    one between ranks, and be 0.

    document_BL: int32, the number of each token's document within its sequence, from 0; the end-of-document token
    belongs to the document that it ends. With it, a target that lies in another document than its token is -100.
    None when documents are joined.

    digest: fingerprint of what was really read. Each sequence counts XXH3-64(global position as 8 bytes little-endian,
    then its sequence_tokens + 1 tokens as stored) >> 2; the digest is their sum modulo 2**62. The sum of the digests of
    all ranks, modulo 2**62, is therefore the digest of the global batch, whatever the number of ranks. An all-reduce of
    int64 may overflow on the way: its wrapped sum & (2**62 - 1) is still right. A damaged sequence counts with
    end-of-document tokens in its place.
    """

    tokens_BL: "torch.Tensor"
    targets_BL: "torch.Tensor"
    digest: int
    document_BL: "torch.Tensor | None" = None


@dataclass(frozen=True)
class _Rows:
    """The sequences of one rank in one step, as stored. raw_BX: each row its position, then its tokens."""

    plan: Plan
    raw_BX: npt.NDArray[np.uint8]
    tokens_BM: TokenArray
    is_damaged_B: npt.NDArray[np.bool_]


class TokenStream:
    """The training batches of a run.

    config: the section `data`; on_event: told of sequences that were skipped. Opening reads the manifests alone.
    Raises ConfigError or DataError if the sources do not fit the section.
    """

    def __init__(self, config: DataConfig, on_event: Callable[[Event], None] = lambda event: None) -> None:
        if config.global_batch_sequences < 1:
            raise ConfigError.at(
                "global_batch_tokens",
                found=str(config.global_batch_tokens),
                allowed=f"at least one sequence of {config.sequence_tokens} tokens",
                remedy="Raise it.",
            )
        self.config, self._on_event = config, on_event
        self._pool = ArrayPool(_POOLED_ARRAYS)
        self.sources, self._mixture = open_sources(config), build_mixture(config)
        orders = [source.order for source in self.sources]
        self.planner = Planner(orders, self._mixture, config.batches)

    @property
    def manifest(self) -> Manifest:
        """Of the first source; tokenizer, token type and end-of-document id are those of all."""
        return self.sources[0].manifest

    @property
    def fingerprint(self) -> str:
        """Of the data: that of the only data set, or the SHA-256 of all names and fingerprints of a mixture."""
        if not self.config.mix:
            return self.manifest.fingerprint
        named = {source.name: source.manifest.fingerprint for source in self.sources}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    def use(self, num_steps: int) -> list[SourceUse]:
        """Return what the first `num_steps` steps read of each source."""
        return source_use(self.config, self.sources, self._mixture, num_steps)

    def check_limits(self, num_steps: int) -> None:
        """Raise ConfigError if `num_steps` steps read more of a source than its `max_epochs` allow."""
        check_limits(self.config, self.sources, self._mixture, num_steps)

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """Return what `rank` of `world_size` trains on in `step` (from 0). Raises DataError for damaged shards."""
        return self._batch(self._read(step, rank, world_size))

    def batches(self, steps: Iterable[int], rank: int, world_size: int) -> Generator[Batch, None, None]:
        """Yield the batch of each of `steps`, read ahead by `data.loader_workers` threads; the same without."""
        return self._ahead(self.batch, steps, rank, world_size)

    def sha256(self, start: int, stop: int, world_size: int = 1) -> str:
        """Return the SHA-256 over (step, index in the global batch, tokens) for the steps start <= step < stop.

        Step and index count as 8 bytes little-endian each, the sequence_tokens + 1 tokens as stored. The tokens are
        those of the ranks 0 to world_size - 1, one after the other, read as in training.
        """
        digest = hashlib.sha256()
        steps = range(start, stop)
        ranks = [self._ahead(self._read, steps, rank, world_size) for rank in range(world_size)]
        for step, *parts in zip(steps, *ranks, strict=True):
            tokens = [row for rows in parts for row in rows.tokens_BM]
            for index, row in enumerate(tokens):
                digest.update(np.array([step, index], dtype="<i8").tobytes() + row.tobytes())
        return digest.hexdigest()

    def _ahead(
        self, read: Callable[..., T], steps: Iterable[int], rank: int, world_size: int
    ) -> Generator[T, None, None]:
        is_remote = any(source.reader.is_remote for source in self.sources)
        steps = self._requested(steps, rank, world_size) if is_remote else steps
        try:
            reader = partial(read, rank=rank, world_size=world_size)
            yield from read_ahead(reader, steps, self.config.loader_workers)
        finally:
            for source in self.sources:
                source.reader.close()

    def _requested(self, steps: Iterable[int], rank: int, world_size: int) -> Iterable[int]:
        """Yield `steps`, having asked the readers to fetch the blocks of those steps and the next ones."""
        first = 0
        for step in steps:
            for ahead in range(max(first, step), step + _REQUESTED_STEPS):
                plan = self.planner.share(ahead, rank, world_size)
                for number, source in enumerate(self.sources):
                    source.reader.request(dict.fromkeys(plan.block[plan.source == number].tolist()))
            first = step + _REQUESTED_STEPS
            yield step

    def _read(self, step: int, rank: int, world_size: int) -> _Rows:
        plan = self.planner.share(step, rank, world_size)
        dtype, length = np.dtype(self.manifest.dtype), self.config.sequence_tokens
        shape = plan.position.size, _POSITION_BYTES + (length + 1) * dtype.itemsize
        raw_BX = self._pool.take(shape, np.uint8)
        raw_BX[:, :_POSITION_BYTES] = plan.position.astype("<i8").view(np.uint8).reshape(-1, _POSITION_BYTES)
        rows = _Rows(plan, raw_BX, raw_BX[:, _POSITION_BYTES:].view(dtype), np.zeros(plan.position.size, np.bool_))
        buffer, starts = raw_BX.reshape(-1).data, np.arange(plan.position.size) * raw_BX.shape[1] + _POSITION_BYTES
        for number, source in enumerate(self.sources):
            chosen = np.flatnonzero(plan.source == number)
            blocks, places = plan.block[chosen].tolist(), plan.row[chosen].tolist()
            damaged = source.reader.read_rows(blocks, places, length, buffer, starts[chosen].tolist())
            if damaged:
                numbers = chosen[[index for index, _ in damaged]]
                for event in skip_damaged(self.config.on_corrupt, source, damaged, blocks, places):
                    self._on_event({"step": step + 1, "rank": rank, **event})
                rows.tokens_BM[numbers] = self.manifest.eos_id
                rows.is_damaged_B[numbers] = True
        return rows

    def _batch(self, rows: _Rows) -> Batch:
        import torch

        tokens_BM = rows.tokens_BM
        tokens_BL, targets_BL = (self._pool.take((len(tokens_BM), tokens_BM.shape[1] - 1), np.int64) for _ in range(2))
        tokens_BL[:], targets_BL[:] = tokens_BM[:, :-1], tokens_BM[:, 1:]
        for number, source in enumerate(self.sources):
            if source.manifest.packing is not None:
                is_ignored_BL = is_ignored(tokens_BM, source.manifest.eos_id)
                targets_BL[is_ignored_BL & (rows.plan.source == number)[:, None]] = IGNORED_TARGET
        document_BL = None
        if self.config.documents == "separate":
            document_BL = torch.from_numpy(separate_targets(tokens_BM, targets_BL, self.manifest.eos_id))
        targets_BL[rows.is_damaged_B] = IGNORED_TARGET
        return Batch(torch.from_numpy(tokens_BL), torch.from_numpy(targets_BL), _digest(rows.raw_BX), document_BL)


def _digest(raw_BX: npt.NDArray[np.uint8]) -> int:
    from xxhash import xxh3_64_intdigest

    data, size = raw_BX.reshape(-1).data, raw_BX.shape[1]
    total = sum(xxh3_64_intdigest(data[start : start + size]) >> 2 for start in range(0, raw_BX.size, size))
    return total % DIGEST_MODULUS
