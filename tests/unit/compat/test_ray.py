import faulthandler
import inspect
import os
import signal
import sys

import ray
from ray._private import services
from ray._private.state import GlobalState
from ray.train.torch import TorchConfig

from sisa_scale.compat.ray import (
    ControllerCallback,
    OwnPathJob,
    ResizingState,
    TorchBackend,
    away_from,
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


def test_workers_are_asked_before_they_join_a_process_group() -> None:
    source = inspect.getsource(TorchBackend.on_start)
    assert 0 < source.index("worker_group.execute(") < source.index("setup_futures")
    assert TorchConfig().backend_cls is TorchBackend


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
