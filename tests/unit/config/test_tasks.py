"""Evaluation tasks in recipes."""

from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.places import imported
from sisa_scale.config.tasks import TaskSpec, register_task, task_specs
from sisa_scale.errors import ConfigError


def test_recipes_name_tasks_of_the_table(base: Path) -> None:
    assert load_config(base, ["evaluation.tasks=[piqa, loss]"]).config.evaluation.tasks == ("piqa", "loss")
    with pytest.raises(ConfigError, match=r"(?s)one of loss, lambada, needle.*Did you mean 'lambada'\?"):
        load_config(base, ["evaluation.tasks=[loss, lambda]"])


def test_places_are_there() -> None:
    assert all(callable(imported(spec.build)) for spec in task_specs())


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="already"):
        register_task(TaskSpec("loss", "elsewhere:build"))
