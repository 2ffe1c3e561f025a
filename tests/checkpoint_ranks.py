"""Real processes that write checkpoints of one small tensor together, and no model.

They are forked from a server that has imported torch already, so that many of them can be started, and killed.
"""

import json
import multiprocessing
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

STATES = ("exp_avg", "exp_avg_sq")
LENGTH = 1000
PRELOAD = ["sisa_scale.checkpoint.saving", "sisa_scale.checkpoint.verifying", "sisa_scale.training.engine.communicator"]


def save(
    run_dir: Path, steps: list[int], *, workers: int = 2, directory: str | None = None, faults: str = ""
) -> dict[str, Any] | None:
    """Find the newest checkpoint, then save the steps, every value of one being its step.

    Returns the step that was found and the error of each save, or None when a rank died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    result = run_dir / "result.json"
    result.unlink(missing_ok=True)
    place = {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = []
    for rank in map(str, range(workers)):
        environment = {**place, "RANK": rank, "LOCAL_RANK": rank, "SISA_SCALE_FAULTS": faults}
        ranks.append(context.Process(target=_rank, args=(environment, run_dir, directory, steps, result)))
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(timeout=120)
    finally:
        for process in ranks:
            process.kill()
    return json.loads(result.read_text()) if all(process.exitcode == 0 for process in ranks) else None


def _rank(environment: dict[str, str], run_dir: Path, directory: str | None, steps: list[int], result: Path) -> None:
    os.environ.update(environment)
    import torch

    from sisa_scale.checkpoint.manifest import WEIGHT, Manifest
    from sisa_scale.checkpoint.saving import Written, write_checkpoint
    from sisa_scale.checkpoint.slices import CheckpointReader, HostBuffer, Slice
    from sisa_scale.checkpoint.store import CheckpointStore
    from sisa_scale.checkpoint.verifying import Copies, newest_sound
    from sisa_scale.errors import CheckpointError
    from sisa_scale.training.engine.communicator import connect

    torch.set_num_threads(1)
    workers = connect("cpu")
    peers = workers.aside()
    store = CheckpointStore(run_dir, directory)
    store.writer = workers.broadcast(store.claim() if workers.is_main else None)
    start, errors = 0, []
    with closing(Copies()) as copies:
        found = newest_sound(store, copies, workers.gather)
        if found is not None:
            start = found.manifest.step
            reader = CheckpointReader(found.directory, found.manifest)
            assert all(reader.read(kind, "w").tolist() == [float(start)] * LENGTH for kind, _ in found.manifest.tensors)

    buffer = HostBuffer(is_pinned=False)
    low, high = (LENGTH * (workers.rank + add) // workers.world_size for add in (0, 1))
    for step in steps:
        slices = [Slice(kind, "w", low, torch.full((high - low,), float(step))) for kind in (WEIGHT, *STATES)]

        def manifest(parts: list[Written], step: int = step) -> Manifest:
            pieces = tuple(piece for _, pieces in parts for piece in pieces)
            files = tuple(file for file, _ in parts)
            shapes, states = {"w": [LENGTH]}, {"w": STATES}
            world_size = workers.world_size
            return Manifest(step, step, {}, "", world_size, 1, shapes, pieces, files, optimizer_states=states)

        try:
            write_checkpoint(store, peers, step, buffer.copy(slices, torch.get_rng_state()), manifest)
            errors.append(None)
            for old in store.steps()[:-1] if workers.is_main else []:
                store.remove(old)
        except CheckpointError as error:
            errors.append(str(error))
        assert workers.gather(errors) == [errors] * workers.world_size
    if workers.is_main:
        result.write_text(json.dumps({"found": start, "errors": errors}))
    workers.barrier()
