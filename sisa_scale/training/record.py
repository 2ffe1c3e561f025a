"""What a run directory says of its run before a step is taken: recipe, DeepSpeed's configuration, provenance."""

import torch

from sisa_scale.config.run import RunConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.provenance import collect_provenance
from sisa_scale.training.engine.deepspeed_config import deepspeed_config


def record(directory: RunDirectory, config: RunConfig, data_fingerprint: str) -> None:
    """Write it, over what was there."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    num_parameters = count_parameters(config.model).total
    provenance = collect_provenance(config, data_fingerprint, num_parameters, gpus)
    directory.record(config, deepspeed_config(config), provenance)
