"""safetensors under our own parameter names, with a description in sisa_scale.json."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT, tensors
from sisa_scale.conversion.forms.json_files import read_json
from sisa_scale.conversion.forms.tensor_files import SUFFIX, Entry, TensorFiles, write_shards
from sisa_scale.conversion.weights import (
    Description,
    Weights,
    check_shapes,
    checked,
)
from sisa_scale.files import write_json
from sisa_scale.models.meta import parameter_shapes

DESCRIPTION = "sisa_scale.json"
_STEM = "model"


class PlainWeights:
    """A directory of safetensors that `write_plain` wrote."""

    def __init__(self, path: Path) -> None:
        """Read the description and the headers; raises CheckpointError when they do not fit the model."""
        self.path = path
        self.description = Description.from_json(read_json(path / DESCRIPTION), path / DESCRIPTION)
        self.shapes = parameter_shapes(self.description.run)
        spec = self.description.run.optimizer.spec
        has_states = any(_has_files(path, kind) for kind in spec.state_names)
        self.optimizer_states = spec.stored_states(self.shapes) if has_states else {}
        wanted: dict[str, dict[str, tuple[int, ...]]] = {}
        for kind, name in tensors(self.shapes, self.optimizer_states):
            wanted.setdefault(kind, {})[name] = self.shapes[name]
        self._files = {kind: TensorFiles(path, _STEM if kind == WEIGHT else kind) for kind in wanted}
        for kind, files in self._files.items():
            check_shapes(path, files.shapes, wanted[kind], self.description.run.model)

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one tensor."""
        return checked(self.path, name, self._files[kind].read(name), self.shapes[name])


def write_plain(directory: Path, weights: Weights, shard_bytes: int, advance: Callable[[int], None]) -> None:
    """Write weights as model*.safetensors and the optimizer's states, if there are any, as files of their names."""
    entries: dict[str, list[Entry]] = {}
    for kind, name in tensors(weights.shapes, weights.optimizer_states):
        entry = Entry(name, weights.shapes[name], partial(weights.read, name, kind))
        entries.setdefault(kind, []).append(entry)
    for kind, of_kind in entries.items():
        write_shards(directory, _STEM if kind == WEIGHT else kind, of_kind, shard_bytes, advance)
    write_json(directory / DESCRIPTION, weights.description.to_json())


def _has_files(directory: Path, stem: str) -> bool:
    return (directory / f"{stem}{SUFFIX}").is_file() or any(directory.glob(f"{stem}-*{SUFFIX}"))
