"""Newton and Schulz in bf16 on a real GPU, against singular values in float64."""

import pytest
import torch

from sisa_scale.training.optimizers.newton_schulz import orthogonalized

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("shape", [(768, 3072), (3072, 768), (48, 768), (16, 768), (384, 48)])
def test_bf16_brings_random_matrices_into_the_band(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix.bfloat16()).double())
    assert values.min() > 0.66
    assert values.max() < 1.23
