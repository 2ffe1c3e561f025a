"""Convert a model of so many layers, whose weights are a hole in a file, and print the most memory that was in use."""

import json
import re
import sys
from pathlib import Path

import torch
from conversion_cases import run_config

from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.model import ModelConfig
from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.plain import DESCRIPTION
from sisa_scale.conversion.weights import Description
from sisa_scale.files import write_json
from sisa_scale.models.meta import parameter_shapes


def anonymous_bytes() -> int:
    """Return memory of this process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def hollow(directory: Path, num_layers: int) -> Path:
    """Write a safetensors form of a model whose tensors are zeros that take no room."""
    sizes = {"d_model": 384, "num_heads": 6, "d_ff": 1024, "vocab_size": 512, "max_length_tokens": 64}
    plain = run_config(ModelConfig(kind="transformer", num_layers=num_layers, **sizes))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in parameter_shapes(config_from_plain(plain, "test")).items():
        start, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    directory.mkdir(parents=True)
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        stream.truncate(8 + len(encoded) + end)
    write_json(directory / DESCRIPTION, Description(plain, 1, 1, "none", "test").to_json())
    return directory


root, layers = Path(sys.argv[1]), int(sys.argv[2])
source = hollow(root / "source", layers)
seen = [0]
convert(source, root / "native", "native", shard_bytes=30_000_000, advance=lambda _: seen.append(anonymous_bytes()))
convert(root / "native", root / "back", "safetensors", advance=lambda _: seen.append(anonymous_bytes()))
sys.stdout.write(f"{max(seen)}\n")
