"""One rank of the tests of the stream: reads its share of the steps and notes each on disk until it is killed.

Arguments: the section `data` as JSON, rank, world size, first step, end, directory for the notes.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from sisa_scale.config.data import DataConfig
from sisa_scale.config.mixture import MixSource
from sisa_scale.data.read.stream import TokenStream

settings = json.loads(sys.argv[1])
settings["mix"] = {name: MixSource(**source) for name, source in settings.get("mix", {}).items()}
rank, world_size, start, stop = map(int, sys.argv[2:6])
steps = range(start, stop)
with (Path(sys.argv[6]) / f"{rank}.jsonl").open("w") as notes:
    for step, batch in zip(steps, TokenStream(DataConfig(**settings)).batches(steps, rank, world_size), strict=True):
        tokens = hashlib.sha256(batch.tokens_BL.numpy().tobytes() + batch.targets_BL.numpy().tobytes()).hexdigest()
        note = {"step": step, "digest": batch.digest, "tokens": tokens, "sequences": len(batch.tokens_BL)}
        notes.write(json.dumps(note) + "\n")
        notes.flush()
        os.fsync(notes.fileno())
