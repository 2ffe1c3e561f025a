"""A directory that `transformers` loads: config, weights, tokenizer, the code of the model, and a card."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.config.run import to_plain
from sisa_scale.conversion.forms.json_files import read_json
from sisa_scale.conversion.forms.remote_code import remote_files
from sisa_scale.conversion.forms.tensor_files import Entry, TensorFiles, write_shards
from sisa_scale.conversion.weights import (
    WEIGHTS_ALONE,
    Description,
    Weights,
    check_shapes,
    checked,
)
from sisa_scale.data.read.tokenizer_choice import UNUSED_RULES
from sisa_scale.data.tokenizer import PADDING, load_tokenizer
from sisa_scale.errors import ConfigError
from sisa_scale.files import write_json, write_text
from sisa_scale.models.meta import parameter_shapes

MODEL_TYPE = "sisa_scale"
CONFIG = "config.json"
_MOST_NEW_TOKENS = 128
_PREFIX, _STEM = "model.", "model"
_CONFIGURATION, _MODELING = "configuration_sisa_scale", "modeling_sisa_scale"


class HuggingFaceWeights:
    """A directory that `write_huggingface`, or `save_pretrained` of a model from there, wrote."""

    optimizer_states = WEIGHTS_ALONE

    def __init__(self, path: Path) -> None:
        """Read config and headers, run no code; raises CheckpointError when they do not fit together."""
        self.path = path
        ours = read_json(path / CONFIG).get(MODEL_TYPE)
        kept = ours.get("training") if isinstance(ours, dict) else None
        self.description = Description.from_json(kept, path / CONFIG)
        self.shapes = parameter_shapes(self.description.run)
        self._files = TensorFiles(path, _STEM)
        found = {name.removeprefix(_PREFIX): shape for name, shape in self._files.shapes.items()}
        check_shapes(path, found, self.shapes, self.description.run.model)

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one tensor."""
        assert kind == WEIGHT
        return checked(self.path, name, self._files.read(f"{_PREFIX}{name}"), self.shapes[name])


def write_huggingface(
    directory: Path,
    weights: Weights,
    shard_bytes: int,
    advance: Callable[[int], None],
    *,
    tokenizer: Path,
    card: str,
) -> None:
    """Write all of it.

    Raises ConfigError when the tokenizer has more ids than the model, and for mixers whose code is not the package's.
    """
    for spec in weights.description.run.model.specs:
        if not spec.module.startswith("sisa_scale."):
            raise ConfigError.at(
                "model.kind",
                found=f"the mixer {spec.name} of another package ({spec.module})",
                allowed="the directory carries the code of the model, and that of sisa_scale alone",
                remedy="Convert to safetensors, or use the run directory where that package is installed.",
            )
    special = _write_tokenizer(directory, weights.description, tokenizer)
    entries = [Entry(f"{_PREFIX}{name}", shape, partial(weights.read, name)) for name, shape in weights.shapes.items()]
    write_shards(directory, _STEM, entries, shard_bytes, advance)
    write_json(directory / CONFIG, _config(weights.description, special))
    # Half of the longest sequence is left for the prompt.
    max_new_tokens = max(1, min(_MOST_NEW_TOKENS, weights.description.run.model.max_length_tokens // 2))
    write_json(directory / "generation_config.json", {"use_cache": True, "max_new_tokens": max_new_tokens, **special})
    for name, text in remote_files().items():
        write_text(directory / name, text)
    write_text(directory / "README.md", card)


def _config(description: Description, special: dict[str, int]) -> dict[str, Any]:
    model = description.run.model
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["SisaScaleForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{_CONFIGURATION}.SisaScaleConfig",
            "AutoModelForCausalLM": f"{_MODELING}.SisaScaleForCausalLM",
        },
        "dtype": "float32",
        "tie_word_embeddings": True,
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "max_position_embeddings": model.max_length_tokens,
        **special,
        MODEL_TYPE: {"model": to_plain(model), "training": description.to_json()},
    }


def _write_tokenizer(directory: Path, description: Description, path: Path) -> dict[str, int]:
    """Write the tokenizer as texts were encoded; returns the ids of special tokens.

    Left out are its rules of truncation and padding, and those that add tokens round a text.
    """
    ours, model = load_tokenizer(path), description.run.model
    if ours.vocab_size > model.vocab_size:
        raise ConfigError.at(
            path,
            found=f"a tokenizer of {ours.vocab_size} ids",
            allowed=f"the model has {model.vocab_size}",
            remedy="Give the tokenizer it was trained with, by --tokenizer.",
        )
    content = json.loads(path.read_text(encoding="utf-8")) | dict.fromkeys(UNUSED_RULES)
    eos = ours.decode([ours.eos_id])
    padding = PADDING if PADDING in ours.added_tokens else eos
    pad_id = next(token["id"] for token in content["added_tokens"] if token["content"] == padding)
    write_text(directory / "tokenizer.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "pad_token": padding,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # a name of a special token inside a text is text, as in training
            "model_max_length": model.max_length_tokens,
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )
    return {"eos_token_id": ours.eos_id, "bos_token_id": ours.eos_id, "pad_token_id": pad_id}
