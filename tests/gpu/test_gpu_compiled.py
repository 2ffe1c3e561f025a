"""Compiled blocks against eager ones, every architecture, on a real GPU and the torch that is installed there."""

import pytest
import torch
from zoo import TINY, decoder, tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.training.engine.compile import compile_blocks, compile_settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


BOUNDS = {"fp32": 1e-3, "bf16": 3e-2}  # kernels that fuse round bf16 less often than eager ones


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", TINY)
def test_compiled_blocks_have_the_gradients_of_eager_ones(name: str, precision: str) -> None:
    model = decoder(tiny(name)).cuda()
    if precision == "bf16":
        model.compute_dtype = torch.bfloat16
    tokens = torch.randint(0, 100, (2, 257), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    gradients = []
    for is_compiled in (False, True):
        if is_compiled:
            torch.compiler.reset()
            settings = compile_settings(ExecutionConfig(micro_batch_sequences=1, compile=True))
            compile_blocks(model.blocks, **settings)
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        gradients.append({n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None})
    eager, compiled = gradients
    assert eager.keys() == compiled.keys()
    errors = {n: ((compiled[n] - eager[n]).norm() / eager[n].norm().clamp(min=1e-12)).item() for n in eager}
    bound = BOUNDS[precision]
    assert max(errors.values()) < bound, {n: e for n, e in errors.items() if e >= bound}
