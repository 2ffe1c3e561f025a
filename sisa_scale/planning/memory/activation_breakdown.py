"""What kept activations are for, told by their shapes."""

import re
from collections.abc import Iterable

from sisa_scale.config.run import RunConfig
from sisa_scale.planning.memory.amounts import Held

AUGMENTED, SCAN, OTHER = "augmented queries and keys", "decays, scores and states of scans", "other activations"


def by_use(config: RunConfig, layers: Iterable[tuple[Held, ...]], sequences: int) -> dict[str, int]:
    """Return the bytes of what the layers hold for a micro-batch, by use."""
    uses = dict.fromkeys((AUGMENTED, SCAN, OTHER), 0)
    for layer, held in enumerate(layers):
        for tensor in held:
            uses[_use(config, layer, tensor.name)] += tensor.amount.at(sequences)
    return {use: size for use, size in uses.items() if size}


def _use(config: RunConfig, layer: int, name: str) -> str:
    model, shape = config.model, [int(number) for number in re.findall(r"\d+", name.split(" ", 1)[-1])]
    work = model.spec(layer).work(model, layer)
    if work.attention is not None and work.attention.importance_width and len(shape) == 4:
        extra, content = work.attention.importance_width, work.attention.key_width
        if shape[-1] in {content + extra, extra} - {content}:
            return AUGMENTED
    if (rule := work.delta_rule) is not None:
        is_square = shape[-2:] == [rule.chunk_tokens] * 2
        is_state = shape[-2:] in ([rule.key_width, rule.head_width], [rule.key_width] * 2)
        return SCAN if len(shape) > 2 and (is_square or is_state) else OTHER
    scan = work.scan
    if scan is None:
        return OTHER
    chunk, _ = scan.chunks(config.data.sequence_tokens + model.num_meta_tokens)
    rows, inner = chunk * scan.rank, scan.heads * scan.head_width
    is_square = shape[-2:] == [rows, rows]
    is_state = any(sorted(shape[-2:]) == sorted((scan.state_width, width)) for width in (inner, scan.head_width))
    return SCAN if is_square or (is_state and len(shape) > 2) else OTHER
