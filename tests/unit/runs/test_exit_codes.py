"""How a process ends beside a thread that waits inside a library."""

import subprocess
import sys

PROGRAM = """
import sys, threading, time
from sisa_scale.runs.exit_codes import RAY_THREAD, end_beside_ray
if "waits" in sys.argv:
    threading.Thread(target=time.sleep, args=(60,), name=RAY_THREAD).start()
end_beside_ray(75)
print("went on")
"""


def ended(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False, timeout=50
    )
    return done.returncode, done.stdout


def test_a_thread_that_waits_for_ray_does_not_keep_or_abort_the_process() -> None:
    assert ended("waits") == (75, "")
    assert ended() == (0, "went on\n")
