"""What `data.mix` and `data.stages` are made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sisa_scale.config.duration import Duration
from sisa_scale.config.fields import Violation, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class MixSource:
    """One data set of a mixture."""

    path: str = setting("directory or URL of a built data set")
    weight: float = setting("share of the sequences, relative to the other sources", minimum=0)
    max_epochs: float | None = setting(
        "most passes over this source in the whole run; null sets no limit", default=None, above=0
    )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if not self.path:
            yield Violation("path", "''", "must name a data set", "Give its directory or URL.")


@dataclass(frozen=True, slots=True)
class MixStage:
    """Weights that hold from a step on: `{from: 1000 steps, weights: {web: 0.5, books: 0.5}}`."""

    start: Duration
    weights: Mapping[str, float]

    @classmethod
    def parse(cls, value: object) -> "MixStage":
        """Read the mapping of a recipe; raises ValueError with the accepted form."""
        if not isinstance(value, dict) or value.keys() != {"from", "weights"} or not isinstance(value["weights"], dict):
            raise ValueError("a mapping such as {from: 1000 steps, weights: {web: 0.5, books: 0.5}}")
        weights = value["weights"]
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise ValueError(f"a mapping whose weights are numbers of at least 0, not {name}: {weight!r}")
        return cls(Duration.parse(value["from"]), {str(name): float(weight) for name, weight in weights.items()})

    def to_plain(self) -> dict[str, Any]:
        """Return the mapping as it stands in a recipe."""
        return {"from": self.start.to_plain(), "weights": dict(self.weights)}
