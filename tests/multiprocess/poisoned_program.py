"""What torchrun starts in test_guard.py: a worker whose last rank sees NaN in chosen global batches.

Arguments: recipe, data steps separated by blanks, `always` or `once` (only in the first life), overrides.
"""

import math
import os
import sys

from sisa_scale.cli.main import main
from sisa_scale.training.run import Run

recipe, data_steps, when, *overrides = sys.argv[1:]
bad = {int(step) for step in data_steps.split()}
take_step = Run.step


def spoiled_step(self, state, batch):
    is_bad = self.cursor.data_step(state.step) in bad and self.workers.rank == self.workers.world_size - 1
    if not is_bad or (when == "once" and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"):
        return take_step(self, state, batch)
    handle = self.engine.model.register_forward_hook(lambda _module, _inputs, loss: loss * math.nan)
    try:
        return take_step(self, state, batch)
    finally:
        handle.remove()


Run.step = spoiled_step
main(["worker", recipe, *overrides, "--device", "cpu"])
