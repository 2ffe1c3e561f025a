"""Checks of a recipe: its data, its tokenizer, its memory, where its metrics go."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sisa_scale.config.run import RunConfig
from sisa_scale.data.manifest import read_tokenizer
from sisa_scale.data.read.sources import load_manifests, open_reader
from sisa_scale.data.read.storage import open_storage
from sisa_scale.data.read.tokenizer_choice import check_vocabulary
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.models.meta import parameter_shapes

_TIGHT = 0.9  # of the memory; more is within the error of an estimate
_CONNECT_SECONDS = 5.0


def checkpoint_bytes(config: RunConfig) -> int:
    """Return the size of one checkpoint: weights and states of the optimizer."""
    return config.optimizer.spec.checkpoint_bytes(parameter_shapes(config))


def check_shards(config: RunConfig) -> Iterator[Finding]:
    """Read the first block of every split of every source and compare it with its checksum."""
    for name, manifest in load_manifests(config.data).items():
        location = config.data.sources[name].path
        num_tokens = 0
        for split in manifest.splits:
            reader = open_reader(config.data, location, manifest, split)
            try:
                num_tokens += len(reader.block(0))
            finally:
                reader.close()
        found = (
            f"{name}: the first blocks of {', '.join(manifest.splits)} ({num_tokens:,} tokens) match their checksums"
        )
        yield Finding("shards", "ok", found)


def check_tokenizer(config: RunConfig) -> Iterator[Finding]:
    """Compare the tokenizer file with the manifest, and its vocabulary with the model's."""
    manifests = load_manifests(config.data)
    check_vocabulary(config, manifests)
    for name, source in config.data.sources.items():
        read_tokenizer(open_storage(source.path), manifests[name])
    first = next(iter(manifests.values())).tokenizer
    yield Finding("tokenizer", "ok", f"{first.vocab_size:,} ids, SHA-256 {first.sha256[:12]} as in the manifest")


def check_memory(config: RunConfig, here: bool) -> Iterator[Finding]:
    """Compare the planned memory of a worker with that of its device; here: workers will run on this machine."""
    from sisa_scale.planning.memory.estimate import plan_memory

    plan = plan_memory(config)
    if not here:
        found = f"{plan.needed_bytes / 1e9:.3g} GB a GPU (an estimate; peak in: {plan.phase})"
        yield Finding("memory", "skipped", found, "The devices are elsewhere; `sisa-scale plan` compares with a type.")
        return
    import torch

    if config.resources.device != "cpu" and torch.cuda.device_count() >= config.resources.workers:
        memory, num, need = torch.cuda.get_device_properties(0).total_memory, 1, plan.needed_bytes
    else:
        # DeepSpeed's buckets are larger than what small models write to: on a CPU the rest takes no memory.
        memory, num = _free_bytes(), config.resources.workers
        need = plan.peak_bytes - plan.terms.get("communication buffers", 0)
    found = (
        f"{need / 1e9:.3g} GB a worker (an estimate; peak in: {plan.phase}), {memory / 1e9:.3g} GB for {num} of them"
    )
    if num * need > memory:
        remedy = (
            "Lower micro_batch_sequences, recompute activations, raise zero_stage or workers: see `sisa-scale plan`."
        )
        yield Finding("memory", "failure", found, remedy)
    elif num * need > _TIGHT * memory:
        yield Finding("memory", "warning", found, "Little is left: an estimate may be wrong by more.")
    else:
        yield Finding("memory", "ok", found)


def check_wandb(config: RunConfig) -> Iterator[Finding]:
    """See whether wandb's server answers and a key is set, if metrics are to be sent."""
    if "wandb" not in config.observation.writers:
        yield Finding("wandb", "ok", "observation.writers does not name it: nothing is sent")
        return
    if config.wandb.mode != "online":
        yield Finding("wandb", "ok", f"{config.wandb.mode}: nothing is sent")
        return
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        remedy = "Open the way to it, or set wandb.mode=offline and run `wandb sync` afterwards."
        yield Finding("wandb", "failure", f"{url.hostname}:{port} is not reachable ({error})", remedy)
        return
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.exists() and (url.hostname or "") in netrc.read_text())
    if has_key:
        yield Finding("wandb", "ok", f"{url.hostname} answers and a key is set")
    else:
        yield Finding("wandb", "failure", f"{url.hostname} answers, but no key is set", "Run `wandb login`.")


def _free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
