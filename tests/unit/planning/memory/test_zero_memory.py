"""The states of ZeRO, against the allocations of a real engine."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from processes import first_error, run_program

from sisa_scale.config.execution import MATRIX_BUCKET_ELEMENTS, REDUCE_BUCKET_ELEMENTS
from sisa_scale.config.optimizers.table import OPTIMIZERS
from sisa_scale.planning.memory.zero_memory import FP32_BYTES, ZeroStates, joined

BUCKET_BYTES = FP32_BYTES * REDUCE_BUCKET_ELEMENTS
SIZES = ["d_model=256", "d_ff=1024", "vocab_size=4096", "sequence_tokens=16", "micro_batch_sequences=1"]
SETTINGS = ["precision=fp32", "loss_chunk_tokens=16", "activation_checkpointing=full", "resources.workers=1"]


def test_a_real_engine_holds_these(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(__file__).with_name("zero_memory_program.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = run_program(1, program, *SIZES, *SETTINGS)
    assert done.returncode == 0, first_error(done.stderr)
    lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert len(lines) == 8
    for line in lines:
        check(*json.loads(line))


def check(stage: int, micro_steps: int, found: dict[str, Any]) -> None:
    params, moments = found["params"], found["moments"]
    shapes = {name: tuple(shape) for name, shape in found["shapes"].items()}
    spec = OPTIMIZERS[found["kind"]]
    matrices = [math.prod(shapes[name]) for name in spec.whole(shapes)]
    states = ZeroStates(params, stage, 1, micro_steps, spec.state_elements(shapes), sum(matrices))
    embedding = FP32_BYTES * 4096 * 256
    activations = 0.8 * embedding  # and buffers of the loss
    exactly = 0.01 * embedding  # the vectors' group takes its step by itself

    def total(*terms: dict[str, int]) -> int:
        return sum(joined(states.persistent, *terms).values())

    begin, *_, last_forward, last_backward, step = moments
    assert begin[1] == pytest.approx(total(), abs=exactly)
    # The gradient of the head is made in the forward pass.
    assert last_forward[2] == pytest.approx(total(states.forward, {"head": embedding}), abs=2.5 * activations)
    most = max(total(states.backward(params)), total(states.backward(params - embedding // 4), {"": 2 * embedding}))
    # Under stage 2 the two gradients of the embedding meet in the bucket, which the plan does not follow.
    spared = embedding if stage == 2 else 0
    assert most - spared - activations < last_backward[1] < most + activations
    # One matrix after the other is orthogonalised, for which products are needed beside.
    assert step[1] == pytest.approx(total(states.update), abs=exactly + 4 * FP32_BYTES * max(matrices, default=0))
    assert step[2] == pytest.approx(total(), abs=exactly)


@pytest.mark.parametrize(("stage", "expected"), [(0, 12), (1, 4 + 12 / 4), (2, 4 + 12 / 4), (3, 20 / 4)])
def test_states_are_divided_by_stage(stage: int, expected: float) -> None:
    states = ZeroStates(10**9, stage, 4, 1, 2 * 10**9)
    always = sum(states.persistent.values()) - (BUCKET_BYTES if stage == 3 else 0)
    assert always == pytest.approx(expected * 1e9)


@pytest.mark.parametrize(("stage", "expected"), [(1, 4), (2, 4), (3, 1)])
def test_an_offloaded_optimizer_leaves_weights_alone_on_the_device(stage: int, expected: float) -> None:
    states = ZeroStates(10**9, stage, 4, 1, 2 * 10**9, is_offloaded=True)
    assert sum(states.persistent.values()) - (BUCKET_BYTES if stage == 3 else 0) == pytest.approx(expected * 1e9)
    assert states.update == {}
    assert states.on_host == pytest.approx(16 / 4 * 1e9)
    assert ZeroStates(10**9, stage, 4, 1, 2 * 10**9).on_host == 0


def test_buffers_do_not_depend_on_the_model() -> None:
    assert ZeroStates(1000, 1, 2, 1, 2000).backward(0)["communication buffers"] == BUCKET_BYTES
    assert ZeroStates(1000, 3, 2, 1, 2000).persistent["communication buffers"] == BUCKET_BYTES
    assert ZeroStates(10**10, 3, 2, 1, 2 * 10**10).backward(10**10)["gathered weights"] == FP32_BYTES * 10**9
    kept = ZeroStates(10**10, 3, 2, 1, 2 * 10**10, is_resharded=False)
    assert kept.forward["gathered weights"] == kept.backward(10**10)["gathered weights"] == FP32_BYTES * 10**10


def test_whole_matrices_are_divided_and_bounded() -> None:
    def exchanged(stage: int, workers: int, matrices: int, *, is_offloaded: bool = False) -> float:
        states = ZeroStates(10**9, stage, workers, 1, 10**9, matrices, is_offloaded=is_offloaded)
        return states.update.get("whole matrices", 0) / FP32_BYTES

    assert exchanged(1, 4, 0) == 0
    assert exchanged(1, 1, 1000) == exchanged(0, 1, 1000) == 3000
    assert exchanged(2, 4, 1000) == exchanged(3, 4, 1000) == 1000
    assert exchanged(2, 4, 1000, is_offloaded=True) == 750
    assert exchanged(0, 4, 1000) == 2250
    assert exchanged(1, 1, 10**9) == 3 * MATRIX_BUCKET_ELEMENTS
