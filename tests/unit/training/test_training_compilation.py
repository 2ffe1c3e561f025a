"""How blocks are compiled."""

import dataclasses
from pathlib import Path

import torch
from processes import first_error, run_program
from torch._dynamo.testing import CompileCounter
from zoo import decoder, tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.sisa import SisaConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.compilation import compile_blocks, compile_settings

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


def test_tuning_is_an_option_of_the_compiler() -> None:
    tuned, plain = (
        ExecutionConfig(micro_batch_sequences=2, compile=True, compile_tuning=is_tuned) for is_tuned in (True, False)
    )
    assert compile_settings(tuned)["options"]["coordinate_descent_tuning"]
    compile_blocks(deep(4).blocks, **compile_settings(tuned))  # torch raises for options that it does not know
    assert compile_settings(plain) == {"options": {"comprehensive_padding": False}}
