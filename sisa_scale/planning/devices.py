"""GPU types by name: memory, dense bf16 peak and link to the other GPUs of a host, from the vendors' data sheets."""

from dataclasses import dataclass

from sisa_scale.errors import ConfigError
from sisa_scale.planning.mfu import peak_flops


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU type. memory_bytes: what a program can have, a little less than the label says where it was seen.

    link_bytes_per_second: to each other GPU of a host, in one direction. has_fast_cudnn: cuDNN's attention won the
    measurement of kernels on this generation; has_float8: it multiplies 8-bit floats.
    """

    name: str
    device_name: str
    memory_bytes: int
    link_bytes_per_second: float = 450e9
    link_name: str = "NVLink"
    has_fast_cudnn: bool = False
    has_float8: bool = False

    @property
    def peak_flops(self) -> float:
        """Dense bf16 peak in FLOP/s."""
        peak = peak_flops(self.device_name)
        assert peak is not None
        return peak


_GPUS = (
    Gpu("a100-40", "A100-SXM4-40GB", 40 * 10**9, 300e9),
    Gpu("a100-80", "A100-SXM4-80GB", 80 * 10**9, 300e9),
    Gpu("h100-pcie", "H100 PCIe", 80 * 10**9, 64e9, "PCIe", has_fast_cudnn=True, has_float8=True),
    Gpu("h100-nvl", "H100 NVL", 94 * 10**9, 64e9, "PCIe", has_fast_cudnn=True, has_float8=True),
    Gpu("h100", "H100 80GB HBM3", 80 * 10**9, has_fast_cudnn=True, has_float8=True),
    Gpu("h200", "H200", 141 * 10**9, has_fast_cudnn=True, has_float8=True),
)
GPUS = {gpu.name: gpu for gpu in _GPUS}


def gpu_named(name: str) -> Gpu:
    """Return a GPU type; raises ConfigError for one that is not known."""
    if name.lower() not in GPUS:
        raise ConfigError.at(
            "--gpu", found=repr(name), allowed=f"one of {', '.join(GPUS)}", remedy="Take the one that is most alike."
        )
    return GPUS[name.lower()]
