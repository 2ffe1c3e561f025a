"""What blocks are said to hold, against what real blocks of real numbers make torch's allocator give out."""

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from zoo import TINY, tiny

from sisa_scale.config.execution import Recomputation
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import Block
from sisa_scale.models.registry import build_mixer
from sisa_scale.planning.memory.tracing import Setting, trace_block, trace_norm

SEQUENCES, LENGTH = 3, 256
# A CPU that does not multiply bf16 by itself converts it, in memory of its kernels' own: peaks are then those of fp32.
PEAKS_PRECISION = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
CONTROLS: list[dict[str, Any]] = [{"activation": "sigmoid"}, {"has_rotation": False}, {"decay_kind": "alibi"}]


def setting(config: ModelConfig, precision: str = "bf16", *, compiled: bool = False) -> Setting:
    return Setting(LENGTH, precision, compiled, "flash_padded" if config.sisa else "flash", is_separate=False)


class Measured:
    """Bytes that the allocator had given out between the passes, and at most in each of them."""

    def __init__(self, run: Callable[[], None]) -> None:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        assert profiler.profiler is not None
        assert profiler.profiler.kineto_results is not None
        events = profiler.profiler.kineto_results.events()
        (border,) = [event.start_ns() for event in events if event.name() == "@backward"]
        changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        live, self.peaks, self.saved = 0, [0, 0], 0
        for moment, change in changes:
            live += change
            if moment < border:
                self.saved = live
            self.peaks[moment > border] = max(self.peaks[moment > border], live)


def measured(config: ModelConfig, layer: int, how: Setting, again: Recomputation = "none") -> Measured:
    """Return what a real block takes, its input and its parameters not counted."""
    module = Block(config, build_mixer(config, layer, how.kernel), recomputation=again)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    block: Any = module
    if how.compiled:
        torch._dynamo.reset()
        block = torch.compile(module, backend="aot_eager_decomp_partition", dynamic=False)
    length = LENGTH + config.num_meta_tokens
    x_BLD = torch.randn(SEQUENCES, length, config.d_model, dtype=how.dtype, requires_grad=True)
    cos_sin_2LK = torch.randn(2, length, config.rotary_width // 2)
    gradient = torch.randn_like(x_BLD)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=how.precision == "bf16"):
            result = block(x_BLD, cos_sin_2LK)
            gc.collect()
            with torch.profiler.record_function("@backward"):
                pass
            torch.autograd.backward(result, gradient)

    gc.freeze()  # all that there is: looking for garbage in it takes seconds
    try:
        run()
        module.zero_grad()
        x_BLD.grad = None
        return Measured(run)
    finally:
        gc.unfreeze()


def layers_of(config: ModelConfig) -> set[int]:
    return {config.mixers.index(mixer) for mixer in config.mixers}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_real_block_of_every_mixer_holds_that(name: str, precision: str) -> None:
    config = tiny(name)
    how = setting(config, precision)
    for layer in layers_of(config):
        found, real = trace_block(config, layer, how), measured(config, layer, how)
        assert found.saved.at(SEQUENCES) == pytest.approx(real.saved, rel=0.001)
        if precision not in (PEAKS_PRECISION, "fp32"):
            continue
        assert found.forward_peak.at(SEQUENCES) == pytest.approx(real.peaks[0], rel=0.001)
        # The gradient that comes in was made before.
        backward_peak = found.backward_peak.at(SEQUENCES) - found.result.at(SEQUENCES)
        assert backward_peak == pytest.approx(real.peaks[1], rel=0.001)


@pytest.mark.parametrize("name", ["transformer", "sisa", "mamba2", "mamba3", "gated_deltanet", "hymba"])
def test_recomputed_blocks_hold_their_result_alone(name: str) -> None:
    config = tiny(name)
    how = setting(config, PEAKS_PRECISION)
    found, real = trace_block(config, 0, how, "full"), measured(config, 0, how, "full")
    assert found.saved.at(SEQUENCES) == pytest.approx(real.saved, abs=6000)  # and the generator's state, 5056 bytes
    backward_peak = found.backward_peak.at(SEQUENCES) - found.result.at(SEQUENCES)
    assert backward_peak == pytest.approx(real.peaks[1], rel=0.01)


@pytest.mark.parametrize("name", ["transformer", "sisa", "mamba2", "mamba3", "gated_deltanet", "hymba"])
def test_selectively_recomputed_blocks_hold_products_and_attention(name: str) -> None:
    config = tiny(name)
    how = setting(config, PEAKS_PRECISION)
    found, real = trace_block(config, 0, how, "selective"), measured(config, 0, how, "selective")
    assert found.saved.at(SEQUENCES) == pytest.approx(real.saved, rel=0.01)
    backward_peak = found.backward_peak.at(SEQUENCES) - found.result.at(SEQUENCES)
    assert backward_peak == pytest.approx(real.peaks[1], rel=0.01)
    none, full = (trace_block(config, 0, how, again).saved.at(SEQUENCES) for again in ("none", "full"))
    assert full < found.saved.at(SEQUENCES) < 0.7 * none


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_of_sisa_hold_that(control: dict[str, Any]) -> None:
    plain = tiny("sisa")
    assert plain.sisa is not None
    config = dataclasses.replace(plain, sisa=dataclasses.replace(plain.sisa, **control))
    how = setting(config)
    found, real = trace_block(config, 0, how), measured(config, 0, how)
    assert found.saved.at(SEQUENCES) == pytest.approx(real.saved, rel=0.001)


@pytest.mark.parametrize("name", ["sisa", "sisa normalized", "mamba2"])
@pytest.mark.parametrize("again", ["none", "selective"])
def test_compiled_blocks_hold_what_the_partition_keeps(name: str, again: Recomputation) -> None:
    config = tiny(name)
    how = setting(config, compiled=True)
    found, real = trace_block(config, 0, how, again), measured(config, 0, how, again)
    assert found.saved.at(SEQUENCES) == pytest.approx(real.saved, rel=0.05)
    assert found.saved.at(SEQUENCES) < trace_block(config, 0, setting(config)).saved.at(SEQUENCES)


def test_query_blocks_and_documents_are_traced() -> None:
    plain = tiny("sisa")
    assert plain.sisa is not None
    blocks = dataclasses.replace(plain.sisa, form="query_blocks", block_tokens=64)
    config = dataclasses.replace(plain, sisa=blocks)
    single, several = (trace_block(c, 0, setting(c)).saved.at(1) for c in (plain, config))
    assert several > single
    separate = dataclasses.replace(setting(plain), is_separate=True)
    assert trace_block(plain, 0, separate).saved.at(1) > 0


def test_the_norm_is_not_compiled() -> None:
    config = tiny("transformer")
    assert trace_norm(config, setting(config)) == trace_norm(config, setting(config, compiled=True))
