"""The tokenizer that goes with a trained model: that of its data set, or a file that is given."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sisa_scale.config.data import DataConfig
from sisa_scale.config.run import RunConfig
from sisa_scale.data.manifest import Manifest, read_manifest, read_tokenizer
from sisa_scale.data.read.sources import tokenizer_path
from sisa_scale.data.read.storage import open_storage
from sisa_scale.data.tokenizer import Tokenizer, load_tokenizer
from sisa_scale.errors import DataError

# What no data set was built with: rules that cut texts, pad them, or add tokens round them.
UNUSED_RULES = ("truncation", "padding", "post_processor")


def trained_tokenizer(config: RunConfig, given: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a run's data set, or the given file, see `chosen_tokenizer`.

    Raises DataError when it has more ids than the model, too.
    """
    tokenizer = load_tokenizer(chosen_tokenizer(config.data, given))
    if tokenizer.vocab_size > config.model.vocab_size:
        raise DataError.at(
            tokenizer.path,
            found=f"a tokenizer of {tokenizer.vocab_size} ids",
            allowed=f"the model has {config.model.vocab_size}",
            remedy="Give the tokenizer it was trained with, by --tokenizer.",
        )
    return tokenizer


def chosen_tokenizer(config: DataConfig, given: Path | None) -> Path:
    """Return the given tokenizer file, or that of the run's data set where none is given.

    Raises DataError when the data set, if it is at hand, was built with another tokenizer than the given one, even one
    of as many ids: a model would read and write other words.
    """
    if given is None:
        return tokenizer_path(config)
    source = next(iter(config.sources.values()))
    try:
        manifest = read_manifest(source.path)
        ours = read_tokenizer(open_storage(source.path), manifest)
    except (DataError, OSError):
        return given  # nothing to compare with
    if given.is_file() and given.read_bytes() != ours and _used(given.read_bytes()) != _used(ours):
        raise DataError.at(
            given,
            found="another tokenizer than the data set's",
            allowed=f"the model was trained on {source.path}, built with {manifest.tokenizer.name}",
            remedy=f"Leave --tokenizer out, or give {manifest.tokenizer.file} of the data set.",
        )
    return given


def check_vocabulary(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError unless every id of the data sets' tokenizer has a row in the model's embedding."""
    for name, manifest in manifests.items():
        num_ids = manifest.tokenizer.vocab_size
        if num_ids > config.model.vocab_size:
            raise DataError.at(
                config.data.sources[name].path,
                found=f"a tokenizer of {num_ids} ids",
                allowed=f"model.vocab_size is {config.model.vocab_size}",
                remedy=f"Set model.vocab_size to {num_ids}, or point data.path to another data set.",
            )


def _used(content: bytes) -> dict[str, Any] | None:
    try:
        return {key: value for key, value in json.loads(content).items() if key not in UNUSED_RULES}
    except (ValueError, AttributeError):
        return None  # whoever loads it says what is wrong with it
