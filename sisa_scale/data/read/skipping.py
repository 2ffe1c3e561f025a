"""What happens to a sequence whose block is damaged: `data.on_corrupt`."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sisa_scale.data.read.sources import Source
from sisa_scale.data.read.storage import DamageError
from sisa_scale.errors import DataError, Problem

Event = dict[str, Any]


def skip_damaged(
    on_corrupt: Literal["fail", "skip"],
    source: Source,
    damaged: Sequence[tuple[int, DamageError]],
    blocks: Sequence[int],
    rows: Sequence[int],
) -> Iterator[Event]:
    """Yield an event for each damaged block of a step, or raise DataError for the first with `on_corrupt: fail`.

    damaged: (index into `blocks` and `rows`, reason). A skipped sequence keeps its position: its tokens are
    end-of-document tokens and all its targets are masked, so every rank goes on in step, on its own and alike on any
    number of ranks, and the digest of the step is not that of the undamaged one.
    """
    if on_corrupt == "fail":
        problems = damaged[0][1].problems
        remedy = "Or set data.on_corrupt=skip to lose its sequences."
        raise DataError.many(Problem(p.where, p.found, p.allowed, f"{p.remedy} {remedy}") for p in problems)
    by_block: dict[int, list[int]] = {}
    reasons = {}
    for index, error in damaged:
        by_block.setdefault(blocks[index], []).append(rows[index])
        reasons[blocks[index]] = str(error)
    for block, lost in by_block.items():
        shard, _, offset = source.reader.shard_of(block)
        yield {
            "event": "skipped",
            "source": source.name,
            "shard": shard.name,
            "block": block,
            "offset": offset,
            "rows": lost,
            "num_sequences": len(lost),
            "reason": reasons[block],
        }
