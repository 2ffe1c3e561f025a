"""A task from outside the package, as docs/extending.md adds it."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from extending import files_of, importable, install, listed_files

from sisa_scale.config import load_config, tasks
from sisa_scale.config.run import to_plain
from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.errors import ConfigError
from sisa_scale.evaluation.scoring import TokenScores
from sisa_scale.evaluation.suite import EvaluationResources, run_suite
from sisa_scale.reporting.summary import headline_facts, headline_scores
from sisa_scale.runs.files import Run, ScoreRow

Scorer = Callable[..., TokenScores]


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Register the task for the tests of this file."""
    folder = tmp_path_factory.mktemp("task")
    package = install("An evaluation task", folder)
    with importable(folder, package):
        importlib.import_module(package)
        yield package
        del tasks._TASKS[package]


def test_the_document_lists_the_files_that_it_writes() -> None:
    assert listed_files("an evaluation task") == set(files_of("An evaluation task"))


def test_it_is_scored_beside_the_others(
    copying: str, tokenizer: Tokenizer, heldout_sequences: np.ndarray, induction: Scorer, uniform: Scorer
) -> None:
    resources = EvaluationResources(tokenizer, heldout_sequences, [], 4.0, 5.0, 128)
    loss, *_, score = run_suite(("loss", copying), induction, resources, batch_size=8)
    assert (loss.task, score.task, score.metric, score.value) == ("loss", "copying", "exact", 100.0)
    *_, score = run_suite((copying,), uniform, resources, batch_size=8)
    assert score.value == 0.0
    assert score.standard_error is not None


def test_recipes_know_it(copying: str) -> None:
    config = load_config("transformer/152m", ["evaluation.tasks=[loss, copying]"]).config
    assert to_plain(config)["evaluation"]["tasks"] == ["loss", "copying"]
    with pytest.raises(ConfigError, match="Did you mean 'copying'"):
        load_config("transformer/152m", ["evaluation.tasks=[loss, coppying]"])


def test_reports_show_its_headline(copying: str) -> None:
    row = ScoreRow(1, 1, copying, "random-words", "exact", "%", 50, 24.0, 6.0)
    run = Run(Path(), "a", "", {}, {}, [], [], [row], [], [], [])
    assert headline_scores(run) == [row]
    assert {fact.label: fact.value for fact in headline_facts(run)}["Copying"] == "24.0 ± 6.0 %"


def test_the_command_line_names_all_tasks(copying: str) -> None:
    command = importlib.reload(importlib.import_module("sisa_scale.cli.evaluate")).command
    (option,) = (parameter for parameter in command.params if parameter.name == "tasks")
    assert ",".join(tasks.task_names()) in str(option.help)
    assert "copying" in str(option.help)
