"""What the driver and Ray's controller import: every start waits for them."""

import subprocess
import sys

PROGRAM = """
import sys
import sisa_scale.compat.ray
import sisa_scale.launching.local
import sisa_scale.orchestration.failure_callback
import sisa_scale.orchestration.launch
import sisa_scale.orchestration.placement_callback
import sisa_scale.orchestration.trainer
import sisa_scale.orchestration.worker_places
assert "torch" not in sys.modules
"""


def test_only_workers_import_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
