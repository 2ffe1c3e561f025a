import socket
from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.ray import RayLauncher
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


@pytest.mark.parametrize(
    ("state", "is_over"), [("PENDING", False), ("RUNNING", False), ("STOPPED", True), ("GONE", True)]
)
def test_jobs_that_ended_are_over(state: str, is_over: bool) -> None:
    assert LAUNCHER.is_over(state) is is_over
