import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.training.optimizers.newton_schulz import COEFFICIENTS, orthogonalization_flops, orthogonalized

LOW, HIGH = 0.68, 1.21  # where singular values come to lie, by iterating the quintic on [0, 1]


def polynomial(values: torch.Tensor, steps: int) -> torch.Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return values


def test_the_band_is_that_of_the_quintic() -> None:
    values = torch.linspace(1e-3, 1, 100_001, dtype=torch.float64)
    for steps in (8, 20):
        assert polynomial(values, steps).min() > LOW
        assert polynomial(values, steps).max() < HIGH


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99), st.sampled_from([1e-6, 1.0, 1e5]), st.integers(1, 8))
def test_singular_values_go_through_the_quintic_and_vectors_stay(
    rows: int, columns: int, seed: int, scale: float, steps: int
) -> None:
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    expected = u @ torch.diag(polynomial(s / s.norm(), steps)) @ vt
    found = orthogonalized(scale * matrix, steps)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (768, 128), (48, 384)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_five_steps_bring_random_matrices_into_the_band(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = torch.linalg.svdvals(orthogonalized(matrix).double())
    rounding = 0.02 if dtype == torch.bfloat16 else 0.0
    assert LOW - rounding < values.min()
    assert values.max() < HIGH + rounding


def test_zeros_stay_zeros() -> None:
    assert not orthogonalized(torch.zeros(4, 6)).any()


def test_flops_are_those_of_the_products() -> None:
    assert orthogonalization_flops(3, 5, 2) == orthogonalization_flops(5, 3, 2) == 2 * 2 * (9 * 5 + 27 + 9 * 5)
