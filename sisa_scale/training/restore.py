"""Where a run stands when its processes start: at its newest sound checkpoint, or at the beginning."""

import hashlib
import platform
import warnings
from collections import Counter
from contextlib import closing

import torch

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.checkpoint.saving import space_warning
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import Location, find_checkpoint
from sisa_scale.checkpoint.verifying import Copies, Found, newest_sound
from sisa_scale.config.loading.extension import check_begins
from sisa_scale.config.optimizers.spec import AVERAGE
from sisa_scale.data.read.storage import is_remote
from sisa_scale.errors import CheckpointError, SisaScaleWarning
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine.engine import Engine
from sisa_scale.training.engine.zero_layout import begin_states, load_states
from sisa_scale.training.hooks.checkpoints import remove_surplus
from sisa_scale.training.resume_rules import check_resumable, check_tokenizer, lost_states, tokenizer_of
from sisa_scale.training.run import Run
from sisa_scale.training.step import TrainState


def restore(run: Run) -> TrainState:
    """Build the engine of a run with the weights of its newest sound checkpoint or fresh ones; returns where it stands.

    The run's checkpoints are claimed for this attempt first: what earlier ones left half-written is removed, and a
    worker of theirs that still lives cannot add to them.
    """
    run.store.writer = run.workers.broadcast(run.store.claim() if run.workers.is_main else None)
    model = Decoder(run.config.model, run.config.execution, run.backend)
    with closing(_copies(run, run.store.place.location(""))) as copies:
        found = newest_sound(run.store, copies, run.workers.gather)
        state = TrainState() if found is None else _load(run, model, found)
        run.workers.barrier()
    if found is None:
        _begin_weights(run, model)
        run.engine = _engine(run, model)
        if run.config.optimizer.ema_half_life_tokens is not None:
            begin_states(run.engine)
    return _take_up(run, state)


def _load(run: Run, model: Decoder, found: Found) -> TrainState:
    manifest = found.manifest
    check_resumable(found.directory, manifest, run.config, run.stream.fingerprint)
    _pass_over(run, found)
    reader = CheckpointReader(found.directory, manifest)
    reader.load_weights(model.named_parameters())
    run.engine = _engine(run, model)
    _note_replaced(run, manifest)
    _note_average(run, manifest)
    load_states(run.engine, reader, manifest.step - manifest.skipped_steps)
    rng_state = reader.rng_state(run.workers.rank)
    if rng_state is not None:
        torch.set_rng_state(rng_state)
    return TrainState(manifest.step, manifest.tokens, manifest.skipped_steps)


def _pass_over(run: Run, found: Found) -> None:
    """Put the damaged checkpoints that are newer than the one found out of the way, and say so."""
    if not run.workers.is_main:
        return
    for damaged in found.damaged:
        lost = damaged.step - found.manifest.step
        moved_to = run.store.set_aside(damaged.step)
        problems = [str(problem) for problem in damaged.problems]
        run.directory.event(
            "checkpoint_damaged",
            step=damaged.step,
            problems=problems,
            moved_to=moved_to,
            resumed_from_step=found.manifest.step,
            lost_steps=lost,
        )
        warnings.warn(
            f"the checkpoint of step {damaged.step} is damaged and now lies at {moved_to}; the run goes on from step "
            f"{found.manifest.step}, {lost} steps are taken again. {problems[0]}",
            SisaScaleWarning,
            stacklevel=2,
        )


def _copies(run: Run, location: Location) -> Copies:
    """Return how this worker reads checkpoints: those in a directory with all, local copies with those of its node."""
    workers = run.workers
    if not is_remote(location):
        return Copies((workers.rank, workers.world_size))
    nodes = workers.gather(platform.node())
    beside = [rank for rank, node in enumerate(nodes) if node == nodes[workers.rank]]
    share = beside.index(workers.rank), len(beside)
    name = f"sisa-scale-{hashlib.sha256(str(location).encode()).hexdigest()[:12]}"
    if share[0] == 0:
        Copies.remove(f"{name}-*")  # what a killed attempt left
    workers.barrier()
    return Copies(share, f"{name}-{run.store.writer}")


def _engine(run: Run, model: Decoder) -> Engine:
    data = run.config.data
    is_packed = any(source.manifest.packing is not None for source in run.stream.sources)
    ignores_targets = data.documents == "separate" or data.on_corrupt == "skip" or is_packed
    return Engine(model, run.config, run.workers, ignores_targets=ignores_targets)


def _begin_weights(run: Run, model: Decoder) -> None:
    """Draw the weights, or take those of the checkpoint that the run begins from."""
    if run.config.begin_from is None:
        model.initialise(run.config.seed)
        return
    origin = run.directory.origin()  # a start before the first checkpoint may have fixed it
    where, manifest = find_checkpoint(run.config.begin_from, origin["step"] if origin is not None else None)
    check_begins(manifest.config, str(where), run.config.model)
    check_tokenizer(str(where), manifest, [source.manifest for source in run.stream.sources])
    with closing(_copies(run, where)) as copies:
        directory = copies.fetch(where, manifest)
        run.workers.barrier()
        CheckpointReader(directory, manifest).load_weights(model.named_parameters())
        run.workers.barrier()
    _fix_origin(run, str(where), manifest, weights_sha256(model))


def _fix_origin(run: Run, where: str, manifest: Manifest, digest: str) -> None:
    """Record what the run begins from, or raise CheckpointError where that is not what it began from before."""
    origin = run.directory.origin()
    run.workers.barrier()
    if origin is None and run.workers.is_main:
        run.directory.record_origin(where, manifest.step, digest, tokenizer_of(manifest))
    if origin is not None and origin["weights_sha256"] != digest:
        raise CheckpointError.at(
            where,
            found=f"weights {digest[:12]}... of step {manifest.step}",
            allowed=f"the run began with {origin['weights_sha256'][:12]}... of step {origin['step']}",
            remedy="Restore that checkpoint, or begin a new run.",
        )


def weights_sha256(model: Decoder) -> str:
    """Return the SHA-256 of all weights, by name in alphabetical order, as fp32."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _take_up(run: Run, state: TrainState) -> TrainState:
    if run.workers.is_main:
        num_bytes = run.config.optimizer.spec.checkpoint_bytes(run.engine.shapes)
        message = space_warning(run.store, num_bytes, 1 if run.store.steps() else 2)
        if message is not None:
            warnings.warn(message, SisaScaleWarning, stacklevel=2)
        run.directory.take_up(state.step)
        _note_float8(run)
        remove_surplus(run)  # a worker that was killed after its last save may not have come to it
    run.workers.barrier()
    return state


def _note_replaced(run: Run, manifest: Manifest) -> None:
    """Say what is given up if another optimizer goes on."""
    kind, before = run.config.optimizer.kind, manifest.config["optimizer"].get("kind", "adamw")
    if run.workers.is_main and kind != before:
        lost = lost_states(manifest, run.config)
        run.directory.event("optimizer_replaced", step=manifest.step, before=before, after=kind, lost=lost)


def _note_average(run: Run, manifest: Manifest) -> None:
    """Say where the average of the weights begins or ends, if not with the run."""
    had = any(AVERAGE in states for states in manifest.optimizer_states.values())
    has = run.config.optimizer.ema_half_life_tokens is not None
    if run.workers.is_main and had != has:
        run.directory.event("weight_average", step=manifest.step, change="begun" if has else "given up")


def _note_float8(run: Run) -> None:
    """Say which products of the blocks are in float8; blocks alike are named once."""
    modules = run.engine.float8
    if modules is None:
        return
    left = Counter(f"{name.partition('.')[2]} ({why})" for name, why in modules.left.items())
    run.directory.event(
        "float8_products", products=len(modules.taken), blocks=run.config.model.num_layers, left_in_bf16=dict(left)
    )
