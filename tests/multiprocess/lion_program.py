"""Ranks that know the optimizer of docs/extending.md, whose files lie beside the recipe. Argument: as there."""

import json
import runpy
import sys
from pathlib import Path

ROOT = Path(json.loads(sys.argv[1])[0][1]).parent
sys.path.insert(0, str(ROOT))

from lion import LION  # noqa: E402

from sisa_scale.config.optimizers.table import OPTIMIZERS  # noqa: E402

exec((ROOT / "line.py").read_text(), {"OPTIMIZERS": OPTIMIZERS, "LION": LION})
runpy.run_path(str(Path(__file__).with_name("worker_program.py")), run_name="__main__")
