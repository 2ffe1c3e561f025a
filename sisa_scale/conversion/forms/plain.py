"""safetensors under our own parameter names, with a description in sisa_scale.json."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from sisa_scale.conversion.forms.json_files import read_json
from sisa_scale.conversion.forms.tensor_files import SUFFIX, Entry, TensorFiles, write_shards
from sisa_scale.conversion.weights import (
    MOMENTS,
    WEIGHT,
    Description,
    Weights,
    check_shapes,
    checked,
    parameter_shapes,
)
from sisa_scale.files import write_json

DESCRIPTION = "sisa_scale.json"
_STEM = "model"


class PlainWeights:
    """A directory of safetensors that `write_plain` wrote."""

    def __init__(self, path: Path) -> None:
        """Read the description and the headers; raises CheckpointError when they do not fit the model."""
        self.path = path
        self.description = Description.from_json(read_json(path / DESCRIPTION), path / DESCRIPTION)
        self.shapes = parameter_shapes(self.description.run)
        self.has_moments = (path / f"{MOMENTS[0]}{SUFFIX}").is_file() or any(path.glob(f"{MOMENTS[0]}-*{SUFFIX}"))
        stems = {WEIGHT: _STEM, **({kind: kind for kind in MOMENTS} if self.has_moments else {})}
        self._files = {kind: TensorFiles(path, stem) for kind, stem in stems.items()}
        for files in self._files.values():
            check_shapes(path, files.shapes, self.shapes, self.description.run.model)

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one tensor."""
        return checked(self.path, name, self._files[kind].read(name), self.shapes[name])


def write_plain(directory: Path, weights: Weights, shard_bytes: int, advance: Callable[[int], None]) -> None:
    """Write weights as model*.safetensors and moments, if there are any, as exp_avg* and exp_avg_sq*."""
    for kind in (WEIGHT, *(MOMENTS if weights.has_moments else ())):
        entries = [Entry(name, shape, partial(weights.read, name, kind)) for name, shape in weights.shapes.items()]
        write_shards(directory, _STEM if kind == WEIGHT else kind, entries, shard_bytes, advance)
    write_json(directory / DESCRIPTION, weights.description.to_json())
