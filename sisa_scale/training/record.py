"""What a run directory says of its run before a step is taken: recipe, DeepSpeed's configuration, provenance."""

from collections.abc import Sequence
from typing import Any

import torch

from sisa_scale.config.run import RunConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.provenance import collect_provenance
from sisa_scale.training.engine.deepspeed_config import deepspeed_config


def record(
    directory: RunDirectory, config: RunConfig, data_fingerprint: str, command: Sequence[str] | None = None
) -> None:
    """Write it for a new run, or for the newest attempt. command: that started the run; None is this process's own."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    num_parameters = count_parameters(config.model).total
    provenance: dict[str, Any] = collect_provenance(config, data_fingerprint, num_parameters, gpus, command)
    directory.record(config, deepspeed_config(config), provenance)
