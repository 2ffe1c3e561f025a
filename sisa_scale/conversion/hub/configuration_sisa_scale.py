"""The config of a converted model as `transformers` knows it."""

import copy
from typing import Any

from transformers import PretrainedConfig

from sisa_scale.config.loading.plain import section_from_plain
from sisa_scale.config.model import ModelConfig


class SisaScaleConfig(PretrainedConfig):  # type: ignore[misc]
    """A `transformers` config around the model section of a run.

    sisa_scale: {"model": section as plain values, and what the training left: config, step, tokens}.
    """

    model_type = "sisa_scale"

    def __init__(self, sisa_scale: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the usual names from the section; without one (a bare class) there is no model."""
        self.sisa_scale = sisa_scale or {}
        if sisa_scale:
            model = self.model_section()
            kwargs |= {
                "vocab_size": model.vocab_size,
                "hidden_size": model.d_model,
                "num_hidden_layers": model.num_layers,
                "num_attention_heads": model.num_heads,
                "max_position_embeddings": model.max_length_tokens,
            }
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    def model_section(self) -> ModelConfig:
        """Return the section; raises ValueError for one of another version."""
        section: ModelConfig = section_from_plain(ModelConfig, self.sisa_scale["model"])
        return section

    def resize(self, vocab_size: int) -> None:
        """Take another size of the vocabulary, here and in what converting back reads."""
        ours = copy.deepcopy(self.sisa_scale)
        for section in [ours["model"], *([ours["training"]["config"]["model"]] if "training" in ours else ())]:
            section["vocab_size"] = vocab_size
        self.sisa_scale, self.vocab_size = ours, vocab_size
