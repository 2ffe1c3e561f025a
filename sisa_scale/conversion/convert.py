"""One form of a checkpoint into another: written beside the destination, verified, renamed into place."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from sisa_scale.conversion.card import model_card
from sisa_scale.conversion.forms.huggingface import HuggingFaceWeights, write_huggingface
from sisa_scale.conversion.forms.native import NativeWeights, write_native
from sisa_scale.conversion.forms.official import OfficialWeights, write_official
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.conversion.forms.plain import PlainWeights, write_plain
from sisa_scale.conversion.forms.universal import UniversalWeights, write_universal
from sisa_scale.conversion.moving_average import Which, chosen_weights
from sisa_scale.conversion.verify import check_equal_logits
from sisa_scale.conversion.weights import Weights
from sisa_scale.data.read.sources import tokenizer_path
from sisa_scale.data.read.tokenizer_choice import chosen_tokenizer
from sisa_scale.errors import CheckpointError, ConfigError, DataError
from sisa_scale.files import fsync_directory
from sisa_scale.runs.layout import holds_run

Form = Literal["native", "safetensors", "huggingface", "official", "deepspeed-universal"]
FORMS: tuple[Form, ...] = get_args(Form)
SHARD_BYTES = 5_000_000_000
Advance = Callable[[int], None]


def convert(
    source: Path,
    destination: Path,
    form: Form,
    *,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: Path | None = None,
    which: Which = "raw",
    advance: Advance = lambda num_bytes: None,
) -> None:
    """Convert a checkpoint of any form; `destination` must not exist.

    shard_bytes: largest file, where a form may have several; tokenizer: for huggingface, by default that of the run's
    data set; which: the weights with all states, or their moving average alone; advance: told of bytes as they are
    written. One tensor is in memory at a time, and one block while verifying; `official` needs the whole model.
    `destination` appears only if the fp32 logits of a fixed batch are bitwise those of the source.
    """
    if shard_bytes < 1:
        raise ConfigError.at("shard_bytes", found=str(shard_bytes), allowed="at least 1", remedy="Raise it.")
    weights = chosen_weights(open_weights(source), which)
    chosen = _tokenizer(weights, tokenizer) if form == "huggingface" else None
    with staged(destination) as staging:
        if form == "official":
            write_official(staging, weights, advance)
        else:
            staging.mkdir()
        if form == "native":
            write_native(staging, weights, shard_bytes, advance)
        elif form == "safetensors":
            write_plain(staging, weights, shard_bytes, advance)
        elif form == "deepspeed-universal":
            write_universal(staging, weights, advance)
        elif chosen is not None:
            card = model_card(weights.description, run_directory(source))
            write_huggingface(staging, weights, shard_bytes, advance, tokenizer=chosen, card=card)
        check_equal_logits(weights, _reopened(staging, form))


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """Give a path beside the destination that is renamed to it when the block ends without an error."""
    if destination.exists():
        raise ConfigError.at(
            destination, found="something there", allowed="a conversion overwrites nothing", remedy="Give a new path."
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    try:
        yield staging
        for path in [*(staging.rglob("*") if staging.is_dir() else ()), staging]:
            _fsync(path)
        staging.rename(destination)
        fsync_directory(destination.parent)
    except OSError as error:
        raise CheckpointError.at(
            destination,
            found=f"a disk that refuses the data ({error})",
            allowed="the whole checkpoint is written, or nothing",
            remedy="Free space or choose another disk.",
        ) from error
    finally:
        if staging.is_dir():
            shutil.rmtree(staging)
        else:
            staging.unlink(missing_ok=True)


def run_directory(source: Path) -> Path | None:
    """Return the run directory that a native source lies in."""
    candidates = (source, source.parent.parent)
    return next((path for path in candidates if holds_run(path)), None)


def _reopened(staging: Path, form: Form) -> Weights:
    kinds: dict[Form, Callable[[Path], Weights]] = {
        "native": NativeWeights,
        "safetensors": PlainWeights,
        "huggingface": HuggingFaceWeights,
        "official": OfficialWeights,
        "deepspeed-universal": UniversalWeights,
    }
    return kinds[form](staging)


def _tokenizer(weights: Weights, given: Path | None) -> Path:
    data = weights.description.run.data
    if given is not None:
        return chosen_tokenizer(data, given)
    try:
        return tokenizer_path(data)
    except (DataError, OSError) as error:
        raise ConfigError.at(
            "--tokenizer",
            found=f"none, and the run's data set is not at hand ({error})",
            allowed="a Hugging Face directory carries a tokenizer",
            remedy="Give the tokenizer.json that the data set was built with.",
        ) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
