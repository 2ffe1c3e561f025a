"""How a run takes up products in 8-bit floats."""

from pathlib import Path

import pytest
import torch
from processes import first_error, run_program

from sisa_scale.config import load_config
from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.errors import ConfigError
from sisa_scale.training.engine.float8_device import check_float8

SETTINGS = ["execution.precision=bf16", "execution.float8_products=true"]


@pytest.mark.parametrize(("capability", "is_refused"), [((8, 0), True), ((8, 9), False), ((9, 0), False)])
def test_a_gpu_without_them_is_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], is_refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    wanted, device = ExecutionConfig(micro_batch_sequences=1, float8_products=True), torch.device("cuda")
    check_float8(ExecutionConfig(micro_batch_sequences=1), device)
    check_float8(wanted, torch.device("cpu"))
    if not is_refused:
        check_float8(wanted, device)
        return
    with pytest.raises(ConfigError, match=r"float8_products: found true on a GPU, compute capability 8\.0"):
        check_float8(wanted, device)


def test_tokens_of_a_micro_batch_fill_the_products_of_weight_gradients() -> None:
    sizes = ["sequence_tokens=24", "global_batch_tokens=192", "max_length_tokens=512"]
    assert load_config("quickstart", [*SETTINGS, *sizes, "micro_batch_sequences=2"]).config.execution.float8_products
    with pytest.raises(ConfigError, match="found true with 1 x 24 tokens in a micro-batch"):
        load_config("quickstart", [*SETTINGS, *sizes, "micro_batch_sequences=1"])


def test_strict_determinism_takes_them() -> None:
    assert load_config("quickstart", [*SETTINGS, "determinism=strict"]).config.execution.float8_products


@pytest.mark.parametrize("extra", [["compile=false"], ["compile=true"]])
def test_stage_3_takes_the_same_steps(extra: list[str]) -> None:
    program = Path(__file__).with_name("float8_program.py")
    sizes = ["sequence_tokens=32", "global_batch_tokens=128", "micro_batch_sequences=1", "loss_chunk_tokens=32"]
    settings = [*SETTINGS, "activation_checkpointing=none", "resources.workers=2", *sizes, *extra]
    done = run_program(2, program, *settings)
    assert done.returncode == 0, first_error(done.stderr)
    lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert len(lines) == 2
    for line in lines:
        stages = [[float(loss) for loss in part.split()] for part in line.split("|")]
        assert len(stages) == 3
        for losses in stages[1:]:
            assert losses == pytest.approx(stages[0], abs=1e-2)  # sums of another order, rounded to 8 bits
        assert stages[0][-1] < stages[0][0] - 0.05
