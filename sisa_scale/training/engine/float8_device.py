"""Whether a device multiplies 8-bit floats: `execution.float8_products`."""

import torch

from sisa_scale.config.execution import FLOAT8_GPUS, ExecutionConfig
from sisa_scale.errors import ConfigError

CAPABILITY = (8, 9)  # Ada; Hopper has 9.0


def check_float8(execution: ExecutionConfig, device: torch.device) -> None:
    """Raise ConfigError when products in float8 are asked for on a GPU that has none. A CPU computes them slowly."""
    if not execution.float8_products or device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        raise ConfigError.at(
            "execution.float8_products",
            found=f"true on {torch.cuda.get_device_name(device)}, compute capability {'.'.join(map(str, capability))}",
            allowed=FLOAT8_GPUS,
            remedy="Write false: products are then in bf16.",
        )
