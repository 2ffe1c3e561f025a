"""Shapes for `laws optimal`: recipes, with their exact FLOPs, or a CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def shapes_of(names: Sequence[str], count: str) -> list[Any]:
    """Return the shapes of recipes and CSV files. count: whether params_scaling counts the embedding."""
    if not names:
        return []
    from sisa_scale.models.sizing import count_parameters
    from sisa_scale.planning.flops import flops_per_token
    from sisa_scale.planning.twins import load_recipe
    from sisa_scale.scaling.allocation.optimal import Shape, read_shapes

    found: list[Shape] = []
    for name in names:
        if name.endswith(".csv"):
            found += read_shapes(Path(name))
            continue
        config = load_recipe(name).config
        counts = count_parameters(config.model)
        params = counts.total if count == "total" else counts.nonembedding
        flops = flops_per_token(config.model, config.data.sequence_tokens).train
        found.append(Shape(config.name, float(params), flops))
    return found
