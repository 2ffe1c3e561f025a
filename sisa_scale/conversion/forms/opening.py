"""Which form a path holds, and opening it."""

from pathlib import Path

from sisa_scale.checkpoint.store import Location
from sisa_scale.conversion.forms.huggingface import CONFIG, MODEL_TYPE, HuggingFaceWeights
from sisa_scale.conversion.forms.json_files import read_json
from sisa_scale.conversion.forms.native import NativeWeights
from sisa_scale.conversion.forms.official import OfficialWeights
from sisa_scale.conversion.forms.plain import DESCRIPTION, PlainWeights
from sisa_scale.conversion.forms.universal import LATEST, UniversalWeights
from sisa_scale.conversion.weights import Weights
from sisa_scale.data.read.storage import is_remote
from sisa_scale.errors import CheckpointError


def open_weights(where: Location) -> Weights:
    """Open a run directory, a checkpoint of one (or its URL), a converted directory, or a published `.pt` file.

    Raises CheckpointError when it is none of them or cannot be trusted.
    """
    if is_remote(where):
        return NativeWeights(where)
    path = Path(where)
    if path.is_file():
        return OfficialWeights(path)
    if (path / LATEST).is_file():
        return UniversalWeights(path)
    if (path / DESCRIPTION).is_file():
        return PlainWeights(path)
    if (path / CONFIG).is_file():
        if MODEL_TYPE in read_json(path / CONFIG):
            return HuggingFaceWeights(path)
        raise CheckpointError.at(
            path / CONFIG,
            found="a model of another architecture",
            allowed="models that sisa-scale converted",
            remedy="Give a directory that `sisa-scale convert` wrote.",
        )
    return NativeWeights(path)
