"""What building an engine imports: every start and every recovery waits for it."""

import subprocess
import sys


def test_deepspeed_does_not_import_the_compiler() -> None:
    program = (
        "import sys, torch\n"
        "before = torch.compile\n"
        "from sisa_scale.compat.deepspeed import import_muon_uncompiled\n"
        "import_muon_uncompiled()\n"
        "from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS\n"
        "import deepspeed.runtime.zero.muon.muon_optimizer\n"
        "assert torch.compile is before\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules, 'the compiler was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
