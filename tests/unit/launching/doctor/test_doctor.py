import dataclasses
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.launching.doctor import machine as doctor_machine
from sisa_scale.launching.doctor import run as doctor_run
from sisa_scale.launching.doctor.doctor import examine
from sisa_scale.launching.doctor.finding import Finding, run_check
from sisa_scale.launching.doctor.network import check_interface
from sisa_scale.launching.profiles.load import load_profile


@pytest.fixture
def config(recipe: Path, dataset: Path, tmp_path: Path) -> RunConfig:
    shutil.copytree(dataset, tmp_path / "data")
    return load_config(recipe, [f"data.path={tmp_path / 'data'}"]).config


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


def test_whole_data_set_is_ok(config: RunConfig) -> None:
    assert only(run_check("shards", lambda: doctor_run.check_shards(config))).status == "ok"
    assert only(run_check("tokenizer", lambda: doctor_run.check_tokenizer(config))).status == "ok"


def test_damaged_first_block_is_found(config: RunConfig) -> None:
    shard = next(Path(config.data.path or "").glob("heldout-*.tar"))
    content = bytearray(shard.read_bytes())
    content[4096] ^= 1
    shard.write_bytes(content)
    found = only(run_check("shards", lambda: doctor_run.check_shards(config)))
    assert found.status == "failure"
    assert shard.name in found.found


def test_other_tokenizer_and_small_vocabulary_are_found(config: RunConfig) -> None:
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=100))
    assert only(run_check("tokenizer", lambda: doctor_run.check_tokenizer(small))).status == "failure"
    tokenizer = Path(config.data.path or "") / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert only(run_check("tokenizer", lambda: doctor_run.check_tokenizer(config))).status == "failure"


def test_model_beyond_the_memory_is_a_failure(config: RunConfig) -> None:
    large = dataclasses.replace(config, model=dataclasses.replace(config.model, d_model=65536, d_ff=262144))
    assert only(list(doctor_run.check_memory(large, True))).status == "failure"
    assert only(list(doctor_run.check_memory(large, False))).status == "skipped"
    assert only(list(doctor_run.check_memory(config, True))).status == "ok"


def test_disk_must_hold_two_checkpoints(tmp_path: Path) -> None:
    assert only(list(doctor_machine.check_disk(tmp_path / "not" / "there", 1 << 20))).status in ("ok", "warning")
    assert only(list(doctor_machine.check_disk(tmp_path, 1 << 60))).status == "failure"
    assert list(tmp_path.iterdir()) == []


def test_wandb_needs_a_server_and_a_key(config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    online = dataclasses.replace(config, wandb=dataclasses.replace(config.wandb, mode="online"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert "no key" in only(list(doctor_run.check_wandb(online))).found
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        assert only(list(doctor_run.check_wandb(online))).status == "ok"
    assert only(list(doctor_run.check_wandb(online))).status == "failure"
    assert only(list(doctor_run.check_wandb(config))).status == "ok"


def test_an_all_reduce_of_two_processes_is_measured() -> None:
    found = only(list(doctor_machine.check_all_reduce()))
    assert found.status == "ok", found
    assert "GB/s" in found.found


def test_a_check_that_breaks_is_a_failure_and_hides_no_other() -> None:
    def broken() -> Callable[[], None]:
        raise ZeroDivisionError("by zero")

    assert only(run_check("x", broken)).status == "failure"  # type: ignore[arg-type]


def test_what_only_a_cluster_sees_is_asked_there_or_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor_machine, "check_all_reduce", lambda: iter(()))  # measured above
    asked: list[str] = []

    def check(target: str, *settings: str) -> dict[str, str]:
        asked.clear()
        profile = load_profile(target, "cpu" if target != "local" else None, settings)
        return {finding.check: finding.status for finding in examine(None, profile, None, asked.append)}

    found = check("kubernetes")
    assert (found["kubernetes"], found["volume"], found["nodes"]) == ("failure", "skipped", "skipped")
    assert "disk" not in asked
    found = check("slurm")
    assert (found["slurm"], found["nodes"]) == ("failure", "skipped")
    assert "disk" in asked and "volume" not in found
    found = check("local")
    assert found["clock"] == "skipped"
    assert "local" not in asked


@pytest.mark.parametrize(
    ("network", "status"),
    [("lo", "ok"), ("127.0.0.0/8", "ok"), ("ib17", "warning"), ("203.0.113.0/24", "warning")],
)
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")
def test_the_network_of_a_profile_is_looked_for(network: str, status: str) -> None:
    assert check_interface(network).status == status
