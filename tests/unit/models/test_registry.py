"""A mixer from outside the package, as docs/extending.md adds it: trained, counted, planned, decoded."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from extending import files_of, importable, install, listed_files
from torch.utils.flop_counter import FlopCounterMode
from zoo import TINY, decoder, tiny

from sisa_scale.config import load_config
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.loading.plain import section_from_plain
from sisa_scale.config.mixers import table
from sisa_scale.config.mixers.jamba import JambaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.places import imported
from sisa_scale.config.run import RunConfig, config_hash, to_plain
from sisa_scale.errors import ConfigError
from sisa_scale.models.generate import generate
from sisa_scale.models.registry import MixerModule
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.devices import gpu_named
from sisa_scale.planning.memory.estimate import plan_memory
from sisa_scale.planning.profiler_flops import counted_flops_per_token
from sisa_scale.planning.speed import FAR, plan_time

LENGTH = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Register the mixer for the tests of this file."""
    folder = tmp_path_factory.mktemp("mixer")
    package = install("A mixer", folder)
    with importable(folder, package):
        importlib.import_module(package)
        yield folder
        del table._MIXERS[package]


@pytest.fixture
def model(folder: Path) -> ModelConfig:
    settings = table.mixer_spec("linear_attention").settings
    assert settings is not None
    return dataclasses.replace(tiny("transformer"), kind="linear_attention", sections=(settings(),))


@pytest.fixture
def run(folder: Path) -> RunConfig:
    return load_config(folder / "linear.yaml").config


def test_the_document_lists_the_files_that_it_writes() -> None:
    recipe = {"linear.yaml"}
    assert listed_files("a mixer") == set(files_of("A mixer")) - recipe


def test_it_learns(model: ModelConfig) -> None:
    net, tokens = decoder(model), torch.randint(0, 100, (4, LENGTH + 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = net(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert all(parameter.std() > 0 for parameter in net.blocks[0].mixer.parameters())


def test_it_is_counted(model: ModelConfig) -> None:
    net = decoder(model)
    assert sum(parameter.numel() for parameter in net.parameters()) == count_parameters(model).total
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*torch.zeros(2, 1, LENGTH, dtype=torch.int64))
    assert counter.get_total_flops() / LENGTH == pytest.approx(counted_flops_per_token(model, LENGTH).forward)


def test_it_is_planned_with_a_stated_assumption(run: RunConfig) -> None:
    assert plan_memory(run).terms["activations"] > 0
    time = plan_time(run, gpu_named("h100"))
    assert time.mfu == pytest.approx(0.253)
    assert time.uncertainty == FAR
    (assumption,) = time.assumptions
    assert "linear_attention" in assumption
    assert "mamba2" in assumption


def test_it_decodes(model: ModelConfig) -> None:
    net, tokens = decoder(model).eval(), torch.randint(0, 100, (2, LENGTH))
    expected, cache = net.head.logits(net.hidden(tokens)), net.new_cache(2)
    torch.testing.assert_close(net.extend(tokens[:, :20], cache), expected[:, 19], rtol=1e-4, atol=1e-5)
    for position in range(20, LENGTH):
        logits = net.extend(tokens[:, position : position + 1], cache)
        torch.testing.assert_close(logits, expected[:, position], rtol=1e-4, atol=1e-5)
    prompts = [[1, 2, 3, 4, 5], [6]]
    together = generate(net, prompts, max_tokens=4, eos_id=-1)
    assert together == [generate(net, [prompt], max_tokens=4, eos_id=-1)[0] for prompt in prompts]


def test_it_reads_packed_documents_apart(model: ModelConfig) -> None:
    net, tokens = decoder(model).eval(), torch.randint(0, 100, (1, LENGTH))
    documents = (torch.arange(LENGTH) >= 24).int()[None]
    together, alone = net.hidden(tokens, documents), net.hidden(tokens[:, 24:])
    torch.testing.assert_close(together[:, 24:], alone, rtol=1e-4, atol=1e-5)


def test_it_stands_in_patterns_and_hybrids(model: ModelConfig) -> None:
    pattern = dataclasses.replace(model, kind="pattern", pattern=("linear_attention", "attention"))
    hybrid = dataclasses.replace(
        model, kind="jamba", jamba=JambaConfig(attention="linear_attention"), mamba2=tiny("mamba2").mamba2, num_layers=8
    )
    for config in (pattern, hybrid):
        assert not list(config.violations())
        assert sum(p.numel() for p in decoder(config).parameters()) == count_parameters(config).total


def test_its_settings_come_back(run: RunConfig, model: ModelConfig) -> None:
    plain = json.loads(json.dumps(to_plain(run)))
    assert plain["model"]["linear_attention"] == {"epsilon": 1e-6}
    assert config_from_plain(plain, "here") == run
    assert section_from_plain(ModelConfig, to_plain(model)) == model


def test_models_without_it_are_written_as_before(folder: Path) -> None:
    before = config_hash(tiny("sisa"))
    assert "linear_attention" not in to_plain(tiny("sisa"))
    spec = table._MIXERS.pop("linear_attention")
    assert config_hash(tiny("sisa")) == before
    table._MIXERS["linear_attention"] = spec


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.linear_attention.epsilonn=1", r"has no 'epsilonn'.* Did you mean 'epsilon'\?"),
        ("model.linear_attention.epsilon=0", "must be greater than 0"),
        ("model.linear_attention.epsilon=small", "must be a number"),
        ("model.linear_attention=null", "needs a section model.linear_attention"),
        (
            "model.kind=linear_atention",
            "one of transformer, .*, linear_attention, .*Did you mean 'linear_attention'",
        ),
        ("model.kind=transformer", "no such blocks"),
        ("execution.sequence_parallel_size=5", "model.num_heads"),
    ],
)
def test_its_recipes_are_as_strict_as_any(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(folder / "linear.yaml", [override])


def test_a_name_is_taken_once(folder: Path) -> None:
    class Other(table.AttentionSpec):
        name = "linear_attention"

    with pytest.raises(ValueError, match="already"):
        table.register_mixer(Other())
    with pytest.raises(ValueError, match="mixers are attention, sisa"):
        table.mixer_spec("atention")


def test_every_process_knows_an_installed_package(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    call = [sys.executable, "-m", "sisa_scale.cli.main", "config", "show", str(folder / "linear.yaml")]
    shown = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=True).stdout
    assert "linear_attention:\n    epsilon: 1" in shown


def test_a_mixer_that_cannot_share_sequences_is_refused_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ["workers=2", "sequence_parallel_size=2"]
    assert load_config(folder / "linear.yaml", shared).config.execution.sequence_parallel_size == 2
    monkeypatch.setattr(type(table.mixer_spec("linear_attention")), "shared_heads", table.MixerSpec.shared_heads)
    with pytest.raises(ConfigError, match="2 with linear_attention; this mixer reads whole sequences"):
        load_config(folder / "linear.yaml", shared)


@pytest.mark.parametrize("name", TINY)
def test_every_module_has_what_the_decoder_asks(name: str) -> None:
    assert all(isinstance(block.mixer, MixerModule) for block in decoder(tiny(name)).blocks)


@pytest.mark.parametrize("spec", table.mixer_specs(), ids=lambda spec: spec.name)
def test_places_are_there(spec: table.MixerSpec) -> None:
    assert issubclass(imported(spec.module), torch.nn.Module)
    assert imported(spec.module).__module__ == f"sisa_scale.models.mixers.{spec.name}"
