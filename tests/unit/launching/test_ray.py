import socket
from pathlib import Path

import pytest
import ray
from web_server import web_server

from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.ray import RayLauncher, _connect
from sisa_scale.launching.submission import Submission

LAUNCHER = RayLauncher()


def note(run_dir: Path, address: str = "http://127.0.0.1:1", token_file: Path | None = None) -> Submission:
    token = str(token_file) if token_file else None
    return Submission("ray", "job", str(run_dir), {"address": address, "token_file": token, "run_dir": str(run_dir)})


def test_a_run_that_is_seen_from_here_is_stopped_through_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    LAUNCHER.cancel(note(tmp_path), at_once=False)
    assert (tmp_path / "stop").exists()


def test_tokens_that_others_can_read_are_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with pytest.raises(ConfigError, match="Correct token_file"):
        LAUNCHER.state(note(tmp_path, token_file=token))
    token.write_text("x")
    token.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        LAUNCHER.logs(note(tmp_path, token_file=token))


def test_an_address_that_is_missing_or_does_not_answer_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="Give --address"):
        list(LAUNCHER.check(load_profile("ray", None)))  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match="no job server that lets us in"):
        list(LAUNCHER.check(load_profile("ray", None, [f"address='http://127.0.0.1:{port}'"])))  # type: ignore[arg-type]


def test_a_proxy_in_the_way_is_named_and_the_remedy_goes_round_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    with web_server() as server:
        server.add_json("/api/version", {"version": "4", "ray_version": ray.__version__, "ray_commit": ""})

        def refusal() -> str:
            with pytest.raises(ConfigError) as caught:
                _connect(server.url)
            return str(caught.value)

        for name, before in (("http_proxy", {}), ("ALL_PROXY", {"no_proxy": "10.0.0.1"})):
            with monkeypatch.context() as patch:
                patch.setenv(name, f"http://me:secret@127.0.0.1:{closed}")
                for other, value in before.items():
                    patch.setenv(other, value)
                said = refusal()
                assert f"asked through the proxy 127.0.0.1:{closed} of {name}" in said
                assert f"{server.url}: found no job server" in said
                variable, _, value = said.rpartition("export ")[2].partition("=")
                assert value == ",".join([*before.values(), "127.0.0.1"])
                patch.setenv(variable, value)  # the remedy
                _connect(server.url)
                server.files.clear()
                assert f"asked without the proxy of {name}, because {variable} names it" in refusal()
                server.add_json("/api/version", {"version": "4", "ray_version": ray.__version__, "ray_commit": ""})


@pytest.mark.parametrize(
    ("state", "is_over"), [("PENDING", False), ("RUNNING", False), ("STOPPED", True), ("GONE", True)]
)
def test_jobs_that_ended_are_over(state: str, is_over: bool) -> None:
    assert LAUNCHER.is_over(state) is is_over
