"""`sisa-scale plan` as a person and as a program read it."""

import json

import pytest
from click.testing import CliRunner

from sisa_scale.cli.plan import command
from sisa_scale.errors import ConfigError

RECIPE = ["sisa/50m-ds16"]


def test_json_has_memory_time_and_suggestions() -> None:
    arguments = [*RECIPE, "--gpu", "h100", "--gpus", "8", "--price", "2.5", "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    value = json.loads(done.stdout)
    memory, time = value["memory"], value["time"]
    assert memory["peak_bytes"] == sum(memory["terms"].values())
    assert memory["needed_bytes"] == memory["peak_bytes"] + sum(memory["outside_terms"].values())
    assert memory["fits"] is True
    assert time["gpus"] == 8
    assert time["cost"] == pytest.approx(2.5 * time["gpu_hours"])
    assert time["gpu_hours"] == pytest.approx(8 * 24 * time["days"])
    assert value["suggestions"]
    assert value["smallest_change"] is None
    assert value["params_total"] > 0


def test_tables_say_whether_it_fits() -> None:
    large = ["sisa/152m-ds16", "micro_batch_sequences=64", "--gpu", "a100-40"]
    done = CliRunner().invoke(command, large, catch_exceptions=False)
    assert "does not fit" in done.stdout
    assert "smallest change that fits: execution." in done.stdout
    assert "assumed: the utilisation of an H100 holds on a100-40" in done.stdout


def test_without_a_gpu_there_is_the_memory_alone() -> None:
    done = CliRunner().invoke(command, [*RECIPE, "--json"], catch_exceptions=False)
    value = json.loads(done.stdout)
    assert value["memory"]["fits"] is value["time"] is value["suggestions"] is None
    assert value["memory"]["peak_bytes"] > 2e9


def test_several_attention_calls_a_layer_are_named_with_their_reason() -> None:
    longer = ["max_length_tokens=4096", "sequence_tokens=4096", "trained_length_tokens=2048", "rope.scaling=yarn"]
    done = CliRunner().invoke(command, [*RECIPE, *longer], catch_exceptions=False)
    assert "SISA attends in 2 calls a layer" in done.stdout
    assert "over trained_length_tokens 2048" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "v100"], "--gpu: found 'v100'"),
        (["--price", "2"], "without --gpu"),
        (["--gpu", "a100-80", "float8_products=true"], "execution.float8_products: found true on a100-80"),
        (["--gpus", "7", "--gpu", "h100"], "resources.workers|global_batch"),
    ],
)
def test_what_cannot_be_planned_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(command, [*RECIPE, *arguments], catch_exceptions=False)
