"""The held-out sequences of a run's data sets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from sisa_scale.config.data import DataConfig
from sisa_scale.data.manifest import read_manifest
from sisa_scale.data.read.sources import check_together, open_reader, split_layout
from sisa_scale.errors import DataError

SPLIT = "heldout"


@dataclass(frozen=True)
class Heldout:
    """Held-out sequences, and what turns their loss into other measures.

    sequences: int64, (N, sequence_tokens + 1); bytes_per_token: of text; unigram_entropy_nats: the loss of the best
    model without context. Of several sources both are means over the sequences.
    """

    sequences: npt.NDArray[np.int64]
    bytes_per_token: float
    unigram_entropy_nats: float


def read_heldout(config: DataConfig, sequence_tokens: int, limit: int) -> Heldout:
    """Read the first sequences of the held-out splits in storage order, at most `limit`.

    Of several sources each gives a share in proportion to its first weight, one source after the other; sources without
    a held-out split, or with a weight of 0, give none. Raises DataError if no source has one with a whole sequence.
    """
    manifests = {name: read_manifest(source.path) for name, source in config.sources.items()}
    check_together(config, manifests)
    weights = {name: s.weight for name, s in config.sources.items() if s.weight and SPLIT in manifests[name].splits}
    if not weights:
        next(iter(manifests.values())).split(SPLIT)  # says what is missing
        raise DataError.at(
            "data.mix",
            found="no source with a held-out split and a weight above 0",
            allowed="the first weights decide what is held out of each source",
            remedy="Build one with documents held out.",
        )
    parts = []
    for name, weight in weights.items():
        manifest = manifests[name]
        full_blocks, tail, per_block = split_layout(manifest, SPLIT, sequence_tokens)
        count = min(max(1, int(limit * weight / sum(weights.values()))), full_blocks * per_block + tail, limit)
        reader = open_reader(config, config.sources[name].path, manifest, SPLIT)
        sequence = partial(reader.sequence, sequence_tokens=sequence_tokens)
        parts.append(np.stack([sequence(*divmod(number, per_block)) for number in range(count)]).astype(np.int64))
    splits = [manifests[name].split(SPLIT) for name in weights]
    counts = [part.shape[0] for part in parts]
    return Heldout(
        np.concatenate(parts)[:limit],
        float(np.average([split.num_bytes / split.num_tokens for split in splits], weights=counts)),
        float(np.average([split.unigram_entropy_nats for split in splits], weights=counts)),
    )


def heldout_prompts(config: DataConfig, decode: Callable[[list[int]], str], count: int, tokens: int = 24) -> list[str]:
    """Return the first tokens of some held-out sequences as text, for a model to continue; raises DataError."""
    rows = read_heldout(config, config.sequence_tokens, count).sequences[:, :tokens]
    return [decode(row.tolist()) for row in rows]
