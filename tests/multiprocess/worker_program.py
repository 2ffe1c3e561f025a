"""What a rank does in the tests: several runs, one after the other, in the same processes.

Argument: a JSON list of [action, recipe, overrides]; action is `train`, or `resave`: load the newest checkpoint into
the engine of this world size and ZeRO stage, and write it again.
"""

import json
import sys

from sisa_scale.config import RunConfig, load_config
from sisa_scale.launching.start import with_absolute_paths
from sisa_scale.training.engine.communicator import connect, leave
from sisa_scale.training.hooks.checkpoints import Checkpointer
from sisa_scale.training.restore import restore
from sisa_scale.training.run import Run
from sisa_scale.training.worker import work


def resave(config: RunConfig) -> None:
    run = Run(config, connect("cpu"))
    state = restore(run)
    Checkpointer(run).save(state)


for action, recipe, overrides in json.loads(sys.argv[1]):
    resolved = with_absolute_paths(load_config(recipe, overrides).config)
    resolved.directory.mkdir(parents=True, exist_ok=True)
    if action == "train":
        work(resolved, "cpu")
    else:
        resave(resolved)
leave()
