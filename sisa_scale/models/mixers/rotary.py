"""Rotations of channel pairs: by position (RoPE, Su et al. 2021) and by learned phase (SISA).

Pairs are (c, c + K/2), the two halves of a head, so that one rotation serves concatenated channel groups. Beyond the
trained length, the frequency theta_i = base^(-2i / K) of pair i may be scaled by a factor s:

    linear   theta_i / s                                       position interpolation (Chen et al. 2023, 2306.15595)
    ntk      base s^(K / (K - 2)) in place of the base         the slowest pair as in linear, the fastest kept
    yarn     (1 - r_i) theta_i + r_i theta_i / s               Peng et al. 2023, 2309.00071, section 3.2

r_i rises from 0 to 1 between the pairs that turn beta_fast and beta_slow times within the original length. It is linear
in i, with whole bounds, as in the released implementation of YaRN and those after it; the paper writes it linear in the
number of turns. YaRN also multiplies rotated queries and keys by 0.1 ln(s) + 1 (equation 22): content channels alone.

With `model.rope_fraction` below 1 only the first channels of a head are rotated (as in GPT-NeoX), and K is their
number here; layers without positions get angles of 0.

Layers turn by the same angles, so the decoder makes their cosines and sines once, and outside the compiled blocks,
whose kernels would make them for every head and row anew. Mixers get them as one tensor, cos_sin_2LK: (2, L, K/2), or
(2, B, L, K/2) where rows have positions of their own (cos_sin_2BLK).

Shapes: B batch, L length, H heads, K channels of a head.
"""

import math

import torch
from torch import Tensor

from sisa_scale.config.rope import RopeScaling


def position_angles(positions: Tensor, width: int, base: float, scaling: RopeScaling | None = None) -> Tensor:
    """Return the RoPE angles (..., width / 2) in radians, float32: position x frequency."""
    return positions[..., None].float() * frequencies(width, base, scaling, positions.device)


def position_cos_sin(positions: Tensor, width: int, base: float, scaling: RopeScaling | None = None) -> Tensor:
    """Return what mixers turn content by, cos_sin_2LK: cosines and sines of the angles, (2, ..., width / 2), float32.

    YaRN's attention factor is multiplied in, so rotated queries and keys both have it.
    """
    angles = position_angles(positions, width, base, scaling)
    turns = torch.stack((angles.cos(), angles.sin()))
    return turns if scaling is None else turns * scaling.attention_factor


def frequencies(width: int, base: float, scaling: RopeScaling | None, device: torch.device) -> Tensor:
    """Return the angle per token of every pair of a head of this width, (width / 2,) in radians, float32."""
    if scaling is not None and scaling.kind == "ntk" and width > 2:
        base *= scaling.factor ** (width / (width - 2))
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    own = base**-exponents
    if scaling is None or scaling.kind in ("none", "ntk"):
        return own
    if scaling.kind == "linear":
        return own / scaling.factor
    first, last = interpolated_pairs(width, base, scaling)
    pairs = torch.arange(width // 2, dtype=torch.float32, device=device)
    ramp = ((pairs - first) / (last - first)).clamp(0, 1)
    return own * (1 - ramp * (1 - 1 / scaling.factor))


def interpolated_pairs(width: int, base: float, scaling: RopeScaling) -> tuple[float, float]:
    """Return between which pairs YaRN goes over from the own frequency to the interpolated one."""

    def pair_with(turns: float) -> float:
        return width * math.log(scaling.original_length_tokens / (2 * math.pi * turns)) / (2 * math.log(base))

    first = max(math.floor(pair_with(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_with(scaling.beta_slow)), width - 1)
    return first, max(last, first + 0.001)


def rotate(x_BLHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate every pair (x[c], x[c + K/2]) by its angle; cos and sin broadcast to (B, L, H, K / 2)."""
    first, second = x_BLHK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def rotate_by_position(x_BLHK: Tensor, cos_sin_2LK: Tensor) -> Tensor:
    """Rotate every head by the position of its token, from its first channel on as many as there are angles for.

    See `position_cos_sin`.
    """
    cos, sin = cos_sin_2LK.unsqueeze(-2).unbind(0)
    width = 2 * cos.shape[-1]
    if width == x_BLHK.shape[-1]:
        return rotate(x_BLHK, cos, sin)
    rotated = rotate(x_BLHK[..., :width], cos, sin)
    return torch.cat((rotated, x_BLHK[..., width:].to(rotated.dtype)), dim=-1)
