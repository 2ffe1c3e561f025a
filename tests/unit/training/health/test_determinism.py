import os
import subprocess
import sys

import pytest

from sisa_scale.config import load_config
from sisa_scale.errors import ConfigError

PROGRAM = """
import os, torch
from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.training.health.determinism import apply_determinism
for wanted in ("strict", "fast"):
    apply_determinism(ExecutionConfig(micro_batch_sequences=1, determinism=wanted, compile=True))
    print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic)
    if wanted == "strict":
        settings = torch.backends.cudnn.benchmark, torch._inductor.config.deterministic
        print(os.environ["CUBLAS_WORKSPACE_CONFIG"], *settings)
"""


def test_strict_is_set_and_unset() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines() == ["True True", ":4096:8 False True", "False False"], done.stderr


@pytest.mark.parametrize(
    "override",
    ["attention_backend=cudnn", "attention_backend=flash_4", "state_space_kernel=mamba_ssm", "compile_tuning=true"],
)
def test_what_cannot_repeat_itself_is_refused(override: str) -> None:
    key, value = override.split("=")
    with pytest.raises(ConfigError, match=rf"execution.{key}: found {value} with execution.determinism strict"):
        load_config("quickstart", [override, "execution.compile=true", "execution.determinism=strict"])


def test_hymba_has_no_flash_4() -> None:
    with pytest.raises(ConfigError, match="found flash_4 with hymba"):
        load_config("hymba/152m", ["attention_backend=flash_4"])
