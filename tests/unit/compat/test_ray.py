import faulthandler
import inspect
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray._private import services, worker
from ray._private.state import GlobalState
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from sisa_scale.compat.ray import (
    ControllerCallback,
    LeanTrainer,
    OwnPathJob,
    ResizingState,
    away_from,
    messages_to,
    scratch_in,
    signals_left_alone,
)


def test_callbacks_are_asked_before_workers_start() -> None:
    hooks = {
        "after_controller_state_update": {"previous_state", "current_state"},
        "before_controller_execute_resize_decision": {"resize_decision"},
        "on_controller_start_worker_group": {"scaling_config", "num_workers"},
    }
    for name, arguments in hooks.items():
        assert arguments <= set(inspect.signature(getattr(ControllerCallback, name)).parameters)
    assert inspect.isclass(ResizingState)


def test_workers_import_nothing_from_where_the_driver_runs() -> None:
    assert "job_config._runtime_env_has_working_dir()" in inspect.getsource(ray._private.worker.connect)
    assert OwnPathJob()._runtime_env_has_working_dir()


def test_its_processes_are_started_in_sessions_of_their_own() -> None:
    assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(ray.init)
    assert "ConsolePopen(" in inspect.getsource(services.start_ray_process)
    before = services.ConsolePopen
    with signals_left_alone():
        process = services.ConsolePopen(
            [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"], stdout=-1
        )
        assert process.communicate()[0] == b"True\n"
        ray._private.utils.set_sigterm_handler(print)
    assert signal.getsignal(signal.SIGTERM) is not print
    assert services.ConsolePopen is before


def test_what_it_would_print_of_lost_workers_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "            print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)
    printed, log = worker.print_to_stdstream, tmp_path / "ray.log"
    with messages_to(log):
        worker.print_to_stdstream({"lines": ["A worker died\n"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert log.read_text().partition(" ")[2] == "A worker died\n\n"
    assert capsys.readouterr().out == ""
    with messages_to(tmp_path):  # cannot be written: it is a directory
        worker.print_to_stdstream({"lines": ["x"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert worker.print_to_stdstream is printed


def test_a_handler_in_c_does_not_stay_over_that_of_python() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        with signals_left_alone():
            faulthandler.register(signal.SIGTERM, file=sys.__stderr__, chain=False)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def test_nodes_are_known_by_their_label() -> None:
    assert away_from(["a", "b"]) == {"ray.io/node-id": "!in(a,b)"}


def test_draining_nodes_can_be_asked_for() -> None:
    assert isinstance(ray._private.state.state, GlobalState)
    assert callable(GlobalState.get_draining_nodes)


def test_the_folder_can_be_chosen() -> None:
    (name,) = scratch_in("/tmp")
    # ray.init takes it among **kwargs and refuses names that it does not know.
    assert f'"{name}"' in inspect.getsource(ray.init) or name in inspect.signature(ray.init).parameters


@pytest.mark.parametrize("is_cluster_ours", [True, False])
def test_no_helper_is_started_that_does_nothing_here(is_cluster_ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = LeanTrainer(print, is_cluster_ours=is_cluster_ours, scaling_config=ray.train.ScalingConfig(num_workers=2))
    names = {type(each).__name__ for each in trainer._create_default_callbacks()}
    assert "BackendSetupCallback" in names
    assert "DatasetsCallback" not in names
    assert ("PlacementGroupCleanerCallback" in names) is not is_cluster_ours
    started: list[Any] = []
    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", lambda _, **each: started.append(each))
    trainer._initialize_and_run_controller(scaling_policy=FixedScalingPolicy(trainer.scaling_config))
    policy = started[0]["scaling_policy"]
    assert (type(policy) is FixedScalingPolicy) is not is_cluster_ours
    if is_cluster_ours:
        policy.after_controller_start(None)
        assert policy.make_decision_for_non_running_worker_group().num_workers == 2
        assert policy._coordinator_client is None  # nobody was asked
