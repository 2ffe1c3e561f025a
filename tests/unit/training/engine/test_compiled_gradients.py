"""Compiled bf16 blocks: which products their backward pass takes in which dtype, and what gradients come out."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from zoo import tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine.compile import compile_blocks, keep_backward_out_of_autocast

QUERY_BLOCKS = SisaConfig(d_s=16, form="query_blocks", block_tokens=32)
MIXERS: dict[str, ModelConfig] = {
    name: tiny(name)
    for name in (
        "transformer",
        "sisa",
        "mamba2",
        "mamba3",
        "mamba3 mimo",
        "gated_deltanet",
        "hymba",
        "hymba sisa local",
    )
}
MIXERS["query blocks"] = replace(MIXERS["sisa"], sisa=QUERY_BLOCKS)
MIXERS["hymba query blocks"] = replace(tiny("hymba sisa"), sisa=QUERY_BLOCKS)
# Of the gradient in float64, of the worst parameter. Decays and phases are what bf16 products around them make of them.
WORST = {"transformer": 0.05, "mamba2": 0.2, "mamba3": 0.2, "mamba3 mimo": 0.2, "gated_deltanet": 0.4}
OTHERS_WORST = 1.0
# Products that the backward pass has fewer of: the gradient of the delta rule's inverse, 8 products, is written as 2.
WRITTEN = {"gated_deltanet": 6}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(config: ModelConfig) -> Decoder:
    layers = config.num_layers if config.kind == "hymba" else 2
    config = replace(config, num_layers=layers)
    model = Decoder(config, ExecutionConfig(micro_batch_sequences=1, precision="bf16"), "math")
    model.initialise(0)
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)
    return model


def gradients(model: Decoder, *, is_half: bool) -> dict[str, Tensor]:
    tokens = torch.randint(0, 100, (1, 81), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    assert isinstance(loss, Tensor)
    loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == wanted.keys()
    return {name: ((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted}


def counting(products: Counter[torch.dtype]) -> Callable[..., Any]:
    def compiler(graph: Any, _inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if node.op == "call_function" and "mm" in str(node.target):
                products[node.meta["val"].dtype] += 1
        return make_boxed_func(graph.forward)

    return compiler


@pytest.mark.parametrize("name", MIXERS)
def test_compiled_backward_passes_compute_in_the_dtypes_of_eager_ones(name: str) -> None:
    model = model_of(MIXERS[name])
    exact = gradients(copy.deepcopy(model).double(), is_half=False)
    eager = gradients(model, is_half=True)
    forward, backward = Counter[torch.dtype](), Counter[torch.dtype]()
    torch.compiler.reset()
    compile_blocks(model.blocks, backend=aot_autograd(fw_compiler=counting(forward), bw_compiler=counting(backward)))
    compiled = gradients(model, is_half=True)

    # As many products in fp32 as in the forward pass at least, whose two gradients each are of constants in part.
    assert backward[torch.float32] + WRITTEN.get(name, 0) >= forward[torch.float32] > 0
    assert backward[torch.bfloat16] > 0
    apart = errors(compiled, eager)
    assert max(apart.values()) < 1e-3, {n: e for n, e in apart.items() if e >= 1e-3}
    found = errors(compiled, exact)
    assert max(found.values()) < WORST.get(name, OTHERS_WORST), found


def test_a_torch_without_the_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._functorch import config

    assert hasattr(config, "backward_pass_autocast")
    monkeypatch.setattr("builtins.hasattr", lambda _object, _name: False)
    with pytest.warns(SisaScaleWarning, match=r"has no torch._functorch.*not in fp32"):
        keep_backward_out_of_autocast()
