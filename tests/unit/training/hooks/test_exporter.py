"""What a run serves to Prometheus, fetched over a socket, and the dashboard that asks for it."""

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE
from processes import free_port
from prometheus_client.parser import text_string_to_metric_families

from sisa_scale.config import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.events import read_events
from sisa_scale.runs.logs.metrics import StepRow, append_step
from sisa_scale.training.hooks.exporter import COUNTERS, GAUGES, PREFIX, serving

DASHBOARD = Path(__file__).parents[4] / "cluster" / "grafana" / "sisa-scale.json"
SAMPLES = {PREFIX + name for name in GAUGES} | {f"{PREFIX}{name}_total" for name in COUNTERS}


def config_of(run_dir: Path, name: str = "tiny", **observation: Any) -> RunConfig:
    overrides = [f"observation.{key}={json.dumps(value)}" for key, value in observation.items()]
    return load_config("quickstart", [f"run_dir={run_dir}", f"name={json.dumps(name)}", *overrides]).config


def row(step: int, **values: Any) -> StepRow:
    common = {"loss": 2.5, "learning_rate": 1e-3, "gradient_norm": 0.5, "tokens_per_second": 100.0}
    common |= {"step_seconds": 200.0, "data_wait_seconds": 50.0, "attempt": 1, "time": datetime.now(UTC)}
    return StepRow(step=step, tokens=64 * step, **common | values)


def begun(config: RunConfig) -> RunDirectory:
    directory = RunDirectory(config.directory)
    directory.create()
    directory.begin_attempt(config.with_workers(1), ["host:1"], ["host"])
    directory.take_up(0)
    return directory


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[str, tuple[dict[str, str], float]]:
    families = list(text_string_to_metric_families(text))
    return {sample.name: (sample.labels, sample.value) for family in families for sample in family.samples}


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_run_serves_its_numbers_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-ours")
    name = "".join(HOSTILE) + '\n# TYPE forged gauge\nforged{x="y"} 1\n</script>'
    config = config_of(tmp_path / "run", name, metrics_port=free_port())
    begun(config)
    append_step(config.directory, row(1))  # of before: goodput counts it
    with serving(config, is_main=True) as exporter:
        assert exporter is not None
        port = int(read_events(config.directory)[-1]["url"].split(":")[2].split("/")[0])
        assert samples(fetch(port)) == {}
        exporter.update(row(2))
        exporter.update(row(3, loss=float("nan"), skipped=True, mfu=0.4, peak_memory_bytes=5 << 30))
        text = fetch(port)
    found = samples(text)
    assert set(found) == SAMPLES
    assert {labels["run"] for labels, _ in found.values()} == {name}
    assert "a-secret-of-ours" not in text
    values = {name: value for name, (_, value) in found.items()}
    assert values[PREFIX + "step"] == 3
    assert values[PREFIX + "planned_steps"] == config.total_steps
    assert values[PREFIX + "gpu_peak_memory_bytes"] == 5 << 30
    assert values[PREFIX + "mfu_ratio"] == 0.4
    assert values[PREFIX + "skipped_steps_total"] == 1
    assert values[PREFIX + "restarts_total"] == 0
    assert values[PREFIX + "goodput_ratio"] == pytest.approx(0.75, abs=0.05)  # and an attempt as short as this test
    assert values[PREFIX + "loss_nats"] != values[PREFIX + "loss_nats"]
    with pytest.raises(OSError, match="refused"):
        fetch(port)  # closed with the run


def test_a_port_that_is_taken_gives_way_to_the_next(tmp_path: Path) -> None:
    with taken_port() as port:
        config = config_of(tmp_path / "run", metrics_port=port)
        begun(config)
        with serving(config, is_main=True):
            event = read_events(config.directory)[-1]
    assert event["wanted_port"] == port
    assert int(re.findall(r":(\d+)/", event["url"])[0]) > port


def test_an_address_of_another_machine_ends_no_run(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", metrics_port=9400, metrics_address="192.0.2.1")
    begun(config)
    with pytest.warns(SisaScaleWarning, match=r"192\.0\.2\.1"), serving(config, is_main=True) as exporter:
        assert exporter is not None
    assert read_events(config.directory)[-1]["event"] == "metrics_not_served"


def test_off_and_on_other_workers_nothing_listens(tmp_path: Path) -> None:
    for config, is_main in ((config_of(tmp_path / "run"), True), (config_of(tmp_path / "run", metrics_port=1), False)):
        with serving(config, is_main) as exporter:
            assert exporter is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "is_reachable"),
    [("127.0.0.1", False), ("127.8.8.8", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("n1", True)],
)
def test_loopback_is_no_place_for_others(address: str, is_reachable: bool, tmp_path: Path) -> None:
    assert config_of(tmp_path, metrics_port=9400, metrics_address=address).observation.is_reachable is is_reachable
    assert not config_of(tmp_path, metrics_address=address).observation.is_reachable


def test_the_dashboard_asks_for_what_is_served() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    ids, places = [panel["id"] for panel in dashboard["panels"]], []
    assert len(set(ids)) == len(ids) > 10
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & set(places)
        places += cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert '{run=~"$run"}' in target["expr"]
            asked |= set(re.findall(rf"{PREFIX}\w+", target["expr"]))
    assert asked == SAMPLES
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "run"}
    assert PREFIX + "step" in variables["run"]["definition"]
