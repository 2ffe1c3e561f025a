"""Section `model.jamba`: attention in every so many layers, a state-space mixer in the others (Jamba, 2403.19887)."""

from collections.abc import Iterator
from dataclasses import dataclass

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.mixers.table import mixer_names


@dataclass(frozen=True, kw_only=True, slots=True)
class JambaConfig:
    """A block-level hybrid. Its MLPs are dense; mixture of experts is not built."""

    attention_every: int = setting("every N-th layer is attention", default=8, minimum=1)
    attention_offset: int = setting("index of the first attention layer", default=4, minimum=0)
    attention: str = setting(
        "mixer of the attention layers", default="attention", choices=lambda: mixer_names("attention")
    )
    state_space: str = setting(
        "mixer of the other layers", default="mamba2", choices=lambda: mixer_names("state_space")
    )

    def mixer(self, layer: int) -> str:
        """Return the mixer of a layer."""
        return self.attention if layer % self.attention_every == self.attention_offset else self.state_space

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if self.attention_offset >= self.attention_every:
            yield Violation(
                "attention_offset",
                str(self.attention_offset),
                f"must be below attention_every {self.attention_every}",
                f"Write {self.attention_every // 2}.",
            )
