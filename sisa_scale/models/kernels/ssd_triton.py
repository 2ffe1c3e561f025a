"""The authors' Triton kernels for the scan of Mamba-2 (package mamba-ssm), in place of `ssd`'s own products.

They serve Mamba-2's and Hymba's state-space path on a GPU. Mamba-3 has none here: its published kernel is of the whole
mixer, with its own pairing of rotated channels, and does not compute a strict scan.

Some of their gradients are sums by atomic additions, so equal steps differ in the last bits, unless the environment has
MAMBA_DETERMINISTIC=1, which the package reads.

Shapes: as in models.kernels.ssd.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sisa_scale.errors import ConfigError
from sisa_scale.models.precision import upcast

Scan = Callable[..., tuple[Tensor, Tensor]]
LEAST_DECAY_NATS = 1e-12  # exp of it is 1 in float32


def scan_kernel(name: str) -> Scan | None:
    """Return the scan of execution.state_space_kernel; None is PyTorch's, always so on a machine without a GPU.

    Raises ConfigError when mamba-ssm is asked for and cannot be imported.
    """
    if name != "mamba_ssm" or not torch.cuda.is_available():
        return None
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        raise ConfigError.at(
            "execution.state_space_kernel",
            found=f"{name}, which cannot be imported ({error})",
            allowed="mamba_ssm needs the package mamba-ssm, built for this machine's CUDA; pytorch needs nothing",
            remedy="Write pytorch, which is always enough, or run `pip install mamba-ssm --no-build-isolation`.",
        ) from error
    kernel = torch.compiler.disable(mamba_chunk_scan_combined)

    def scan(
        x_BLHP: Tensor,
        log_decay_BLH: Tensor,
        keys_BLGN: Tensor,
        queries_BLGN: Tensor,
        *,
        chunk_tokens: int,
        initial_state: Tensor | None,
        document_BL: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return what `ssd` does, for rank 1 and not strict."""
        # The kernel scales x by the step dt and decays by A dt. With A = -1 the step is the decay: x is divided by it.
        # It takes document 0 for the one that the initial state belongs to.
        step_BLH = (-upcast(log_decay_BLH)).clamp(min=LEAST_DECAY_NATS)
        with torch.autocast(x_BLHP.device.type, enabled=False):
            y_BLHP, state_BHPN = kernel(
                (x_BLHP / step_BLH[..., None]).to(x_BLHP.dtype),
                step_BLH,
                -torch.ones_like(step_BLH[0, 0]),
                keys_BLGN.to(x_BLHP.dtype),
                queries_BLGN.to(x_BLHP.dtype),
                chunk_tokens,
                initial_states=None if initial_state is None else initial_state.transpose(2, 3).contiguous(),
                seq_idx=None if document_BL is None else (document_BL - document_BL[:, :1]).int(),
                return_final_states=True,
            )
        return y_BLHP.to(x_BLHP.dtype), upcast(state_BHPN.transpose(2, 3))

    return scan
