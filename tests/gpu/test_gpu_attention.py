"""SISA's single attention call on a real GPU: every kernel finite and as exact as bf16 allows."""

import dataclasses
import time

import pytest
import torch

from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.kernels.flash4 import is_available
from sisa_scale.models.mixers.sisa import Sisa
from sisa_scale.training.engine.attention_backend import gpu_milliseconds

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LENGTH = 2048
MODEL = ModelConfig(
    kind="sisa",
    num_layers=1,
    d_model=256,
    num_heads=4,
    d_ff=256,
    vocab_size=256,
    max_length_tokens=LENGTH,
    sisa=SisaConfig(d_s=16),
)


def mixer(backend: str, decay_bias: float) -> Sisa:
    sisa = Sisa(dataclasses.replace(MODEL), backend)
    sisa.initialise(0.06, torch.Generator().manual_seed(0))
    torch.nn.init.constant_(sisa.decay_bias, decay_bias)
    return sisa.cuda()


def output_and_gradient(
    sisa: Sisa, x_BLD: torch.Tensor, cos_sin_2LK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x_BLD = x_BLD.clone().requires_grad_()
    out = sisa(x_BLD, cos_sin_2LK)
    (gradient,) = torch.autograd.grad(out.square().sum(), x_BLD)
    return out.detach().double(), gradient.double()


@pytest.mark.parametrize("decay_bias", [-5.0, 5.0], ids=["initial decay", "decay at the bound: 80 nats"])
@pytest.mark.parametrize("backend", ["math", "efficient", "flash_padded", "flash_4", "cudnn", "cudnn_padded"])
def test_bf16_kernel_agrees_with_float64(backend: str, decay_bias: float) -> None:
    from sisa_scale.models.mixers.rotary import position_cos_sin

    if backend == "flash_4" and not is_available(torch.device("cuda")):
        pytest.skip("needs the package flash-attn-4")
    x_BLD = torch.randn(2, LENGTH, MODEL.d_model, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    cos_sin_2LK = position_cos_sin(torch.arange(LENGTH, device="cuda"), MODEL.head_width, MODEL.rope_base)
    expected = output_and_gradient(mixer("math", decay_bias).double(), x_BLD.double(), cos_sin_2LK)
    with torch.autocast("cuda", torch.bfloat16):
        found = output_and_gradient(mixer(backend, decay_bias), x_BLD, cos_sin_2LK)
    for got, want in zip(found, expected, strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() / want.norm() < 2e-2


def test_kernels_are_timed_without_the_cpu_that_starts_them() -> None:
    x = torch.ones(1024, device="cuda")

    def start_slowly() -> None:
        time.sleep(0.004)
        x.add_(1)

    assert gpu_milliseconds(start_slowly) < 1
