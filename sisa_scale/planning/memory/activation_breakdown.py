"""What kept activations are for, told by their shapes."""

import re
from collections.abc import Iterable

from sisa_scale.config.mixers.mamba import Mamba3Config
from sisa_scale.config.run import RunConfig
from sisa_scale.planning.flops import chunk_of
from sisa_scale.planning.memory.amounts import Held

AUGMENTED, SCAN, OTHER = "augmented queries and keys", "decays, scores and states of scans", "other activations"


def by_use(config: RunConfig, layers: Iterable[tuple[str, tuple[Held, ...]]], sequences: int) -> dict[str, int]:
    """Return the bytes of what the layers (mixer, what it keeps) hold for a micro-batch, by use."""
    uses = dict.fromkeys((AUGMENTED, SCAN, OTHER), 0)
    for layer, (mixer, held) in enumerate(layers):
        for tensor in held:
            uses[_use(config, layer, mixer, tensor.name)] += tensor.amount.at(sequences)
    return {use: size for use, size in uses.items() if size}


def _use(config: RunConfig, layer: int, mixer: str, name: str) -> str:
    model, shape = config.model, [int(number) for number in re.findall(r"\d+", name.split(" ", 1)[-1])]
    if model.sisa is not None and model.has_importance(mixer) and len(shape) == 4:
        widths = {model.head_width + model.sisa.extra_channels(layer), model.sisa.extra_channels(layer)}
        if shape[-1] in widths - {model.head_width}:
            return AUGMENTED
    section = {"mamba2": model.mamba2, "mamba3": model.mamba3, "hymba": model.hymba}.get(mixer)
    if section is None:
        return OTHER
    length = config.data.sequence_tokens + model.num_meta_tokens
    chunk, _ = chunk_of(section, length)
    rows = chunk * (section.mimo_rank if isinstance(section, Mamba3Config) else 1)
    inner = section.num_heads(model.d_model) * section.head_width
    is_square = shape[-2:] == [rows, rows]
    is_state = shape[-2:] in ([section.state_width, inner], [inner, section.state_width])
    is_state = is_state or shape[-2:] in (
        [section.state_width, section.head_width],
        [section.head_width, section.state_width],
    )
    return SCAN if is_square or (is_state and len(shape) > 2) else OTHER
