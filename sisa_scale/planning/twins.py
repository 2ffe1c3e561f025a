"""Matched twins: the width that gives a rival as many parameters, or as many FLOPs, as another recipe has.

The `model.d_ff` of a recipe with `twin_of` is solved here, in multiples of 32 for the tensor cores.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sisa_scale.config import LoadedConfig, load_config
from sisa_scale.config.loading.load import SOLVED
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.flops import flops_per_token

D_FF_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class Match:
    """How closely a twin matches: what is matched, on either side, and the difference relative to the original."""

    quantity: str
    original: float
    twin: float

    @property
    def relative_difference(self) -> float:
        """The twin's excess as a share of the original."""
        return self.twin / self.original - 1


def load_recipe(recipe: str | Path, overrides: tuple[str, ...] = (), ancestors: tuple[str, ...] = ()) -> LoadedConfig:
    """Load a recipe as `load_config` does, and solve its `d_ff` if it is a twin.

    Raises ConfigError for a circle of twins, and for a twin that no width can match (it names the nearest).
    """
    loaded = load_config(recipe, overrides)
    if loaded.origins["model.d_ff"] != SOLVED:
        return loaded
    config, name = loaded.config, str(loaded.config.twin_of)
    if name in ancestors:
        raise ConfigError.at(
            f"{recipe} twin_of", found=f"a circle over {name}", allowed="a twin of another recipe", remedy="Break it."
        )
    original = load_recipe(name, ancestors=(*ancestors, name)).config
    d_ff = solve_d_ff(config, original, f"{recipe} twin_of")
    model = dataclasses.replace(config.model, d_ff=d_ff)
    return LoadedConfig(dataclasses.replace(config, model=model), loaded.origins)


def solve_d_ff(config: RunConfig, original: RunConfig, where: str, multiple: int = D_FF_MULTIPLE) -> int:
    """Return the multiple of `multiple` that brings `config` closest to `original` in what `config.match` names."""
    length = config.data.sequence_tokens
    target = _quantity(original.model, config.match, length)

    def quantity(d_ff: int) -> float:
        return _quantity(dataclasses.replace(config.model, d_ff=d_ff), config.match, length)

    # All quantities are linear in d_ff from the first multiple on.
    least, slope = quantity(multiple), quantity(2 * multiple) - quantity(multiple)
    multiples = 1 + round((target - least) / slope)
    if multiples < 1:
        raise ConfigError.at(
            where,
            found=f"{config.match} of {target:,.0f}",
            allowed=f"without any MLP this model is beyond that: d_ff {multiple} gives {least:,.0f}",
            remedy="Lower model.num_layers or model.d_model of the twin.",
        )
    return multiples * multiple


def match_of(config: RunConfig) -> Match | None:
    """Return how closely a twin matches its original; None for a recipe that is no twin."""
    if config.twin_of is None:
        return None
    return match_with(config, load_recipe(config.twin_of).config)


def match_with(config: RunConfig, original: RunConfig) -> Match:
    """Return how closely a run matches another one in what its `match` names."""
    length = config.data.sequence_tokens
    return Match(
        config.match, _quantity(original.model, config.match, length), _quantity(config.model, config.match, length)
    )


def _quantity(model: ModelConfig, match: str, sequence_tokens: int) -> float:
    if match == "flops":
        return flops_per_token(model, sequence_tokens).forward
    counts = count_parameters(model)
    return counts.total if match == "parameters" else counts.nonembedding
