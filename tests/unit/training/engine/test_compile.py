"""How blocks are compiled."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import first_error, run_program
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from zoo import decoder, tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine.compile import compile_blocks, compile_settings, keep_gradients, uses_cuda_graphs

NUM_LAYERS = 12


def deep(d_s: int | tuple[int, ...]) -> Decoder:
    return decoder(dataclasses.replace(tiny("sisa"), num_layers=NUM_LAYERS, sisa=SisaConfig(d_s=d_s)))


def num_graphs(model: Decoder) -> int:
    counter = CompileCounter()
    with torch._dynamo.config.patch(recompile_limit=8):
        torch.compiler.reset()
        compile_blocks(model.blocks, backend=counter)
        for _ in range(2):
            tokens_BL = torch.randint(0, 20, (2, 16))
            model(tokens_BL, tokens_BL)
    return int(counter.frame_count)


def test_equal_blocks_share_a_graph() -> None:
    assert num_graphs(deep(4)) == 1


def test_as_many_kinds_of_blocks_as_layers_are_all_compiled() -> None:
    assert num_graphs(deep(tuple(2 * (layer + 1) for layer in range(NUM_LAYERS)))) == NUM_LAYERS


def test_under_stage_3_equal_blocks_share_a_graph() -> None:
    program = Path(__file__).with_name("stage3_program.py")
    settings = [
        "zero_stage=3",
        "precision=bf16",
        "compile=true",
        "activation_checkpointing=none",
        "resources.workers=2",
    ]
    sizes = ["sequence_tokens=32", "global_batch_tokens=128", "micro_batch_sequences=1", "loss_chunk_tokens=32"]
    done = run_program(2, program, *settings, *sizes)
    assert done.returncode == 0, first_error(done.stderr)
    assert done.stdout.count("FOUND 1 graphs") == 2, done.stdout


def test_cuda_graphs_are_options_of_the_compiler_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ExecutionConfig(micro_batch_sequences=2, compile=True, cuda_graphs=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compile_settings(wanted) == {"options": {"comprehensive_padding": False}}
    assert not uses_cuda_graphs(wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compile_settings(wanted)["options"]["triton.cudagraphs"]
    assert uses_cuda_graphs(wanted)
    assert not uses_cuda_graphs(dataclasses.replace(wanted, cuda_graphs=False))
    compile_blocks(deep(4).blocks, **compile_settings(wanted))  # torch raises for options that it does not know


def test_gradients_outlive_the_memory_that_they_are_made_in() -> None:
    memory = torch.zeros(3)

    class Replayed(torch.autograd.Function):
        """Its gradient is where the last one was, as that of a CUDA graph."""

        @staticmethod
        def forward(ctx: Any, weight: Tensor) -> Tensor:
            return weight.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return memory.copy_(gradient.expand(3)).detach()

    blocks = torch.nn.ModuleList([torch.nn.RMSNorm(3)])
    (weight,) = blocks.parameters()
    keep_gradients(blocks)
    for scale in (1.0, 2.0, 4.0):
        (scale * Replayed.apply(weight)).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [7.0] * 3


def test_tuning_is_an_option_of_the_compiler() -> None:
    tuned, plain = (
        ExecutionConfig(micro_batch_sequences=2, compile=True, compile_tuning=is_tuned) for is_tuned in (True, False)
    )
    assert compile_settings(tuned)["options"]["coordinate_descent_tuning"]
    compile_blocks(deep(4).blocks, **compile_settings(tuned))  # torch raises for options that it does not know
    assert compile_settings(plain) == {"options": {"comprehensive_padding": False}}
