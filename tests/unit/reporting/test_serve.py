"""The served report: over a socket, and in a real browser."""

import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.reporting import serve
from sisa_scale.reporting.curves import MEASURES
from sisa_scale.reporting.html import write_report
from sisa_scale.reporting.serve import ReportServer

WriteRun = Callable[..., Path]
HOSTILE = "</script><script>document.title='forged'</script><img src=x onerror=\"document.title='forged'\">"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def serving(*run_dirs: Path) -> Iterator[ReportServer]:
    with ReportServer(run_dirs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: ReportServer, path: str = "", host: str | None = None) -> str:
    request = urllib.request.Request(server.url + path, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_the_numbers_follow_a_run(write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(serve, "_SHARE_OF_TIME", 1e9)
    run_dir = write_run()
    with serving(run_dir) as server:
        before: dict[str, Any] = json.loads(fetch(server, "curves.json"))
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        more = json.loads(lines[-1]) | {"step": len(lines) + 1, "loss": None, "tokens": 5}
        (run_dir / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(more), "torn"]))
        after = json.loads(fetch(server, "curves.json"))
        for path, host, code in (("x", None, 404), ("", "evil.example:80", 403), ("curves.json", "evil.example", 403)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                fetch(server, path, host)
            assert refused.value.code == code
    assert set(before["measures"]) > set(MEASURES)
    (old,), (new,) = (found["runs"] for found in (before, after))
    name = "training loss (nats per token)"
    assert len(new["curves"][name]["step"]) == len(old["curves"][name]["step"]) + 1
    assert new["curves"][name]["value"][-1] is None
    assert new["curves"][name]["tokens"][-1] == 5
    assert old["curves"]["held-out loss (nats per token)"]["value"]


def test_a_port_that_is_taken_is_an_error_and_a_written_page_has_no_script(write_run: WriteRun, tmp_path: Path) -> None:
    run_dir = write_run()
    with (
        ReportServer([run_dir], 0) as server,
        pytest.raises(ConfigError, match=r"address already in use.*another with --port"),
    ):
        ReportServer([run_dir], server.server_address[1])
    assert "<script" not in write_report([run_dir], tmp_path / "report.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_draws_it_and_runs_nothing_of_a_name(write_run: WriteRun, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    small = {"num_steps": 30, "num_layers": 0}
    with serving(write_run(**small), write_run("other", name=HOSTILE, **small)) as server:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [CHROMIUM, *options, "--virtual-time-budget=1000", "--dump-dom", server.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    drawn = done.stdout[done.stdout.index('id="curves"') : done.stdout.index('<section class="comparison"')]
    assert len(re.findall(r'<path d="M[\d. ML-]{100,}"', drawn)) == 2
    assert "<option" in drawn
    assert drawn.count("<label") >= 4
    assert "onerror" in drawn and "<img" not in drawn
    assert "<title>forged" not in done.stdout
