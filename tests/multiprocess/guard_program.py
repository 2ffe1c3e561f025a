"""What torchrun starts in test_guard.py: steps that are refused must leave no trace, under every ZeRO stage.

Arguments: recipe, folder for the run directories. Fails on the first rank that finds a difference.
"""

import math
import sys

import torch

from sisa_scale.config import load_config
from sisa_scale.launching.start import with_absolute_paths
from sisa_scale.models.decoder import Decoder
from sisa_scale.runs.stop_request import StopRequest
from sisa_scale.training.engine.communicator import Communicator, connect, leave
from sisa_scale.training.engine.zero_layout import local_slices
from sisa_scale.training.health.votes import StepVote
from sisa_scale.training.restore import _engine
from sisa_scale.training.run import Run

RATE = 1e-3
State = dict[tuple[str, str], torch.Tensor]


def begin(stage: str, workers: Communicator) -> Run:
    overrides = [f"run_dir={sys.argv[2]}", f"resources.workers={workers.world_size}", *stage.split()]
    run = Run(with_absolute_paths(load_config(sys.argv[1], overrides).config), workers)
    model = Decoder(run.config.model, run.config.execution, run.backend)
    model.initialise(0)
    run.engine = _engine(run, model)
    return run


def snapshot(run: Run) -> State:
    return {(piece.kind, piece.name): piece.values.clone() for piece in local_slices(run.engine)}


def assert_equal(found: State, expected: State, what: str) -> None:
    differing = [key for key in expected if not torch.equal(found[key], expected[key])]
    assert not differing, f"{what}: {differing[:3]}"


def take(run: Run, step: int) -> StepVote:
    batch = run.stream.batch(step, run.workers.rank, run.workers.world_size)
    vote = StepVote(run.workers, run.guard, step + 1, batch.digest, None)
    run.engine.step(batch, RATE, vote)
    return vote


def poison_second_micro_step(run: Run):
    """On the last rank alone, multiply the loss of the second micro-step, and so its gradient, by NaN."""
    calls = []

    def spoil(_module, _inputs, loss):
        calls.append(loss)
        is_bad = len(calls) == 2 and run.workers.rank == run.workers.world_size - 1
        return loss * math.nan if is_bad else loss

    return run.engine.model.register_forward_hook(spoil)


workers = connect("cpu")
for stage in (*(f"zero_stage={n}" for n in range(4)), *(f"zero_stage={n} offload_optimizer=true" for n in (1, 2, 3))):
    control = begin(stage, workers)
    for step in (0, 1, 3):
        assert take(control, step).refusal is None
    expected = snapshot(control)

    for kind in ("nan", "refused"):
        run = begin(stage, workers)
        take(run, 0)
        take(run, 1)
        before = snapshot(run)
        if kind == "nan":
            handle = poison_second_micro_step(run)
            vote = take(run, 2)
            handle.remove()
            assert vote.refusal is not None and vote.refusal.threshold is None, f"{stage}"
            assert math.isnan(vote.loss) and not math.isfinite(vote.gradient_norm), f"{stage}: {vote.__dict__}"
        else:  # finite, but refused: what the rule for spikes does
            asked = []
            batch = run.stream.batch(2, workers.rank, workers.world_size)
            run.engine.step(batch, RATE, lambda loss, norm: asked.append((loss, norm)) or False)  # noqa: B023
            assert len(asked) == 1 and all(map(math.isfinite, asked[0]))
        assert_equal(snapshot(run), before, f"{stage} {kind}: changed by the refused step")
        take(run, 3)
        assert_equal(snapshot(run), expected, f"{stage} {kind}: the step after differs")

    first = begin(stage, workers)
    weights = {key: values for key, values in snapshot(first).items() if key[0] == "weight"}
    handle = poison_second_micro_step(first)
    take(first, 0)
    handle.remove()
    found = snapshot(first)
    assert_equal(found, weights, f"{stage}: weights changed by a refused first step")
    assert all(not values.any() for key, values in found.items() if key[0] != "weight")

# All that a step agrees on, with two ranks that say different things.
batch_digest = (1 << 62) - 1 - workers.rank
stop = StopRequest("preemption") if workers.rank == workers.world_size - 1 else None
vote = StepVote(workers, control.guard, 1, batch_digest, stop)
assert vote(float(workers.rank), 0.1 + workers.rank)
assert vote.gradient_norm == 0.1 and vote.stop_requested and vote.is_preempted
assert vote.loss == (workers.world_size - 1) / 2
assert int(vote.stream_digest, 16) == sum((1 << 62) - 1 - rank for rank in range(workers.world_size)) % (1 << 62)
leave()
