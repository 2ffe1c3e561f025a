import dataclasses

import pytest

from sisa_scale.config.run import RunConfig
from sisa_scale.planning import communication
from sisa_scale.planning.communication import Network
from sisa_scale.planning.devices import Gpu, gpu_named
from sisa_scale.planning.memory import zero_memory
from sisa_scale.planning.memory.estimate import plan_memory
from sisa_scale.planning.suggest import options, smallest_change
from sisa_scale.planning.twins import load_recipe


def loaded(*overrides: str) -> RunConfig:
    return load_recipe("sisa/152m-ds16", ("global_batch_tokens=131072", *overrides)).config


def small(gigabytes: float) -> Gpu:
    return dataclasses.replace(gpu_named("h100"), memory_bytes=round(gigabytes * 1e9))


def test_suggestions_fit_and_the_first_is_fastest() -> None:
    config, gpu = loaded(), small(20)
    found = options(config, gpu, Network())
    assert found
    assert all(plan_memory(option.config, gpu).needed_bytes <= gpu.memory_bytes for option in found)
    assert found[0].tokens_per_second == max(option.tokens_per_second for option in found)
    for option in found[:5]:
        overridden = loaded(*option.changes)
        assert overridden.execution == option.config.execution


def test_a_run_that_fits_needs_no_change() -> None:
    config = loaded()
    change = smallest_change(config, gpu_named("h100"), Network())
    assert change is not None
    assert change.changes == ()
    assert options(config, gpu_named("h100"), Network())[0].changes == ()


@pytest.mark.parametrize("gigabytes", [18, 12])
def test_the_smallest_change_is_one_setting_where_one_is_enough(gigabytes: float) -> None:
    config, gpu = loaded(), small(gigabytes)
    assert plan_memory(config, gpu).needed_bytes > gpu.memory_bytes
    change = smallest_change(config, gpu, Network())
    assert change is not None
    assert len(change.changes) == 1
    assert change.memory.needed_bytes <= gpu.memory_bytes


def test_more_workers_where_nothing_else_helps() -> None:
    least = min(option.memory.needed_bytes for option in options(loaded(), small(80), Network()))
    change = smallest_change(loaded(), small(0.97 * least / 1e9), Network())
    assert change is None or any(text.startswith("resources.workers=") for text in change.changes)
    assert smallest_change(loaded(), small(1), Network()) is None


def test_sharing_sequences_is_suggested_where_one_does_not_fit() -> None:
    long = ("sequence_tokens=8192", "max_length_tokens=8192", "trained_length_tokens=8192", "micro_batch_sequences=1")
    config = loaded(*long, "workers=4")
    least = min(option.memory.needed_bytes for option in options(config, small(80), Network()))
    change = smallest_change(config, small(0.97 * least / 1e9), Network())
    assert change is not None
    assert "execution.sequence_parallel_size=2" in change.changes
    assert not any(text.startswith("resources.workers") for text in change.changes)
    assert loaded(*long, "workers=4", *change.changes).execution == change.config.execution


def test_keeping_gathered_weights_is_suggested_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (communication, zero_memory):  # as if the model were ten times as large
        monkeypatch.setattr(module, "GATHERED_PARAMS", 100_000_000)
    found = options(loaded("workers=2"), small(80), Network())
    stage_3 = [option for option in found if option.config.execution.zero_stage == 3]
    first = stage_3[0].config.execution
    assert not first.reshard_after_forward
    assert "execution.reshard_after_forward=false" in stage_3[0].changes
    alike = dataclasses.replace(first, reshard_after_forward=True)
    assert alike in [option.config.execution for option in stage_3[1:]]
