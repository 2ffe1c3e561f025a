"""The device of a model in this process."""

import torch

from sisa_scale.errors import ConfigError


def torch_device(wanted: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here; raises ConfigError for a GPU that is not there."""
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError.at(
            "--device", found="cuda", allowed="this machine has no GPU that torch can use", remedy="Use --device cpu."
        )
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")
