"""mamba-ssm's Triton scan against ours, and against float64, on a real GPU."""

import importlib.util
import sys
import types

import pytest
import torch
from torch import Tensor

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
BATCH, HEADS, WIDTH, STATE = 2, 6, 64, 64


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    """Import the package; one that is built without its CUDA extensions fails, but its Triton modules work alone."""
    try:
        importlib.import_module("mamba_ssm")
    except ImportError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
        spec = importlib.util.find_spec("mamba_ssm")
        if spec is None or spec.submodule_search_locations is None:
            pytest.skip("mamba-ssm is not installed")
        bare = types.ModuleType("mamba_ssm")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["mamba_ssm"] = bare
    pytest.importorskip("mamba_ssm.ops.triton.ssd_combined")


def inputs(length: int, groups: int) -> dict[str, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator)

    step = 0.1 * torch.rand(BATCH, length, HEADS, device="cuda", generator=generator) + 1e-3
    rate = 1 + 15 * torch.rand(HEADS, device="cuda", generator=generator)
    return {
        "x_BLHP": normal(BATCH, length, HEADS, WIDTH) * step[..., None],
        "log_decay_BLH": -rate * step,
        "keys_BLGN": normal(BATCH, length, groups, STATE),
        "queries_BLGN": normal(BATCH, length, groups, STATE),
    }


def run(tensors: dict[str, Tensor], dtype: torch.dtype, kernel: object, **options: object) -> list[Tensor]:
    """Return the output, the final state and the gradients of a random scalar of both; decays stay wide."""
    from sisa_scale.models.kernels.ssd import ssd

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {n: t.to(wide if "decay" in n else dtype).requires_grad_() for n, t in tensors.items()}
    given = {n: t.to(wide) if n == "initial_state" and isinstance(t, Tensor) else t for n, t in options.items()}
    y, state = ssd(**leaves, chunk_tokens=64, kernel=kernel, **given)
    generator = torch.Generator("cuda").manual_seed(1)
    weights = [torch.randn(t.shape, device="cuda", generator=generator).to(t.dtype) for t in (y, state)]
    gradients = torch.autograd.grad((y * weights[0]).sum() + (state * weights[1]).sum(), list(leaves.values()))
    return [t.detach().double() for t in (y, state, *gradients)]


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("length", [64, 300, 2048])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("case", ["plain", "continued", "documents"])
def test_the_kernel_agrees_with_ours(length: int, groups: int, case: str) -> None:
    from sisa_scale.models.kernels.ssd_triton import scan_kernel

    kernel, tensors, options = scan_kernel("mamba_ssm"), inputs(length, groups), {}
    assert kernel is not None
    if case == "continued":
        generator = torch.Generator("cuda").manual_seed(2)
        options["initial_state"] = torch.randn(BATCH, HEADS, STATE, WIDTH, device="cuda", generator=generator)
    if case == "documents":
        options["document_BL"] = (torch.arange(length, device="cuda") // 50).expand(BATCH, -1).contiguous()
    exact = run(tensors, torch.float64, None, **options)
    ours = run(tensors, torch.bfloat16, None, **options)
    theirs = run(tensors, torch.bfloat16, kernel, **options)
    names = ["y", "state", *tensors]
    errors = {n: (error(o, e), error(t, e)) for n, o, t, e in zip(names, ours, theirs, exact, strict=True)}
    assert all(mine < 0.02 and other < 0.02 for mine, other in errors.values()), errors


@pytest.mark.parametrize("kind", ["mamba2", "hymba"])
def test_a_model_learns_the_same_with_either(kind: str) -> None:
    from zoo import TINY

    from sisa_scale.config.execution import ExecutionConfig
    from sisa_scale.config.model import ModelConfig
    from sisa_scale.models.decoder import Decoder

    config = ModelConfig(
        kind=kind, num_layers=2, d_model=64, num_heads=2, d_ff=96, vocab_size=100, max_length_tokens=256, **TINY[kind]
    )
    tokens = torch.randint(0, 100, (2, 257), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    losses, gradients = [], []
    for kernel in ("pytorch", "mamba_ssm"):
        execution = ExecutionConfig(micro_batch_sequences=1, precision="fp32", state_space_kernel=kernel)
        model = Decoder(config, execution, "math")
        model.initialise(0)
        model.cuda()
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert error(gradients[1], gradients[0]) < 1e-2  # Triton's products of float32 are in TF32
