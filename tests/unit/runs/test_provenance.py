import subprocess
import sys
from datetime import UTC, datetime

from sisa_scale.config import load_config
from sisa_scale.config.run import config_hash
from sisa_scale.runs.provenance import PACKAGES, collect_provenance, now


def test_what_must_be_known_to_repeat_a_run() -> None:
    config = load_config("quickstart").config
    found = collect_provenance(config, "f" * 64, 11_032, ["H200"])
    assert found["config_sha256"] == config_hash(config)
    assert (found["data_fingerprint"], found["num_parameters"], found["hardware"]["gpus"]) == (
        "f" * 64,
        11_032,
        ["H200"],
    )
    assert set(found["packages"]) == set(PACKAGES)


def test_times_are_in_utc_to_the_millisecond() -> None:
    assert datetime.fromisoformat(now()).tzinfo == UTC
    assert len(now()) == len("2026-01-01T00:00:00.000+00:00")


def test_the_room_needs_no_torch() -> None:
    program = """
import importlib, pkgutil, sys
import sisa_scale.runs
for module in pkgutil.iter_modules(sisa_scale.runs.__path__):
    importlib.import_module(f"sisa_scale.runs.{module.name}")
print([name for name in ("torch", "deepspeed", "ray") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
