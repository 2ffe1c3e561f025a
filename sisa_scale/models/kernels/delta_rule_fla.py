"""The Triton kernels of the package flash-linear-attention for the gated delta rule, in place of our products.

They compute in 16-bit floats, in chunks of a length of their own.

Shapes: as in models.kernels.delta_rule; D documents of all sequences.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from sisa_scale.errors import ConfigError
from sisa_scale.models.precision import upcast

DeltaRule = Callable[..., tuple[Tensor, Tensor]]


def delta_rule_kernel(name: str) -> DeltaRule | None:
    """Return the kernel of execution.state_space_kernel; None is PyTorch's, always so on a machine without a GPU.

    Raises ConfigError when flash-linear-attention is asked for and cannot be imported.
    """
    if name != "flash_linear_attention" or not torch.cuda.is_available():
        return None
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError as error:
        raise ConfigError.at(
            "execution.state_space_kernel",
            found=f"{name}, which cannot be imported ({error})",
            allowed="flash_linear_attention needs the package flash-linear-attention; pytorch needs nothing",
            remedy="Write pytorch, which is always enough, or run `pip install flash-linear-attention`.",
        ) from error
    kernel = torch.compiler.disable(chunk_gated_delta_rule)

    def scan(
        values_BLHP: Tensor,
        log_decay_BLH: Tensor,
        rate_BLH: Tensor,
        keys_BLGN: Tensor,
        queries_BLGN: Tensor,
        initial_state: Tensor,
        document_BL: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return what `delta_rule` does."""
        dtype = torch.bfloat16 if values_BLHP.dtype != torch.float16 else torch.float16
        batch, length, heads = rate_BLH.shape
        per_key = heads // keys_BLGN.shape[2]
        keys, queries = (x.to(dtype).repeat_interleave(per_key, dim=2) for x in (keys_BLGN, queries_BLGN))
        tensors = [queries, keys, values_BLHP.to(dtype), upcast(log_decay_BLH), upcast(rate_BLH)]
        starts = last_B = None
        if document_BL is not None:
            # As one long sequence, whose documents begin with the states of their own; all are 0, without a cache.
            is_first_BL = pad(document_BL[:, 1:] != document_BL[:, :-1], (1, 0), value=True)
            first_D = is_first_BL.flatten().nonzero().squeeze(1)
            starts, last_B = pad(first_D, (0, 1), value=batch * length), is_first_BL.sum(1).cumsum(0) - 1
            tensors = [x.flatten(0, 1)[None] for x in tensors]
            initial_state = initial_state.new_zeros(len(first_D), *initial_state.shape[1:])
        with torch.autocast(values_BLHP.device.type, enabled=False):
            y, state = kernel(
                *tensors, scale=1.0, initial_state=initial_state, output_final_state=True, cu_seqlens=starts
            )
        y_BLHP = y.view(batch, length, heads, -1).to(values_BLHP.dtype)
        return y_BLHP, upcast(state if last_B is None else state[last_B])

    return scan
