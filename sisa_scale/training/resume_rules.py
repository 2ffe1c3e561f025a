"""What may and what may not change when a run goes on."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.data.manifest import Manifest as DataManifest
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.errors import CheckpointError, DataError, Problem, SisaScaleError

# Where the data lies and how it is read may change; what is in it is compared by fingerprint.
FREE_KEYS = re.compile(r"data\.(mix\.[^.]+\.)?(path|max_epochs|loader_workers|cache_directory|cache_bytes|on_corrupt)")


def locked_settings(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, by dotted key, that fix what is trained: seed, model, data."""
    locked: dict[str, Any] = {"seed": plain["seed"]}
    for section in ("model", "data"):
        _flatten(section, plain[section], locked)
    return {key: value for key, value in locked.items() if not FREE_KEYS.fullmatch(key)}


def check_resumable(
    checkpoint: Path | str, manifest: Manifest, config: RunConfig, data_fingerprint: str | None
) -> None:
    """Raise CheckpointError that lists every difference which would make the run another one.

    data_fingerprint: of the data set at hand; None leaves it unchecked.
    """
    # Read back through the loader: settings younger than the checkpoint have the value that was the only one then.
    begun = config_from_plain(manifest.config, str(checkpoint))
    before, after = (_locked_until(manifest.step, each) for each in (begun, config))
    problems = [
        Problem(
            f"{checkpoint} {key}",
            str(after.get(key)),
            f"the run was begun with {before.get(key)}, and its model, data and seed stay as they are",
            "Take the change back, or begin a new run.",
        )
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    kind, before_kind = config.optimizer.kind, begun.optimizer.kind
    if before_kind not in (kind, config.optimizer.replaces):
        lost = lost_states(manifest, config)
        problems.append(
            Problem(
                f"{checkpoint} optimizer.kind",
                kind,
                f"the checkpoint has the states of {before_kind}; {kind} would give up {lost or 'none of them'}",
                f"Write {before_kind}, or optimizer.replaces={before_kind} to go on with {kind} all the same.",
            )
        )
    if data_fingerprint is not None and data_fingerprint != manifest.data_fingerprint:
        problems.append(
            Problem(
                ", ".join(source.path for source in config.data.sources.values()),
                f"a data set with fingerprint {data_fingerprint[:12]}...",
                f"the run was begun on {manifest.data_fingerprint[:12]}...",
                "Point data.path (or data.mix) to that data, or begin a new run.",
            )
        )
    if not manifest.has_optimizer_states:
        problems.append(
            Problem(
                str(checkpoint),
                "weights without the optimizer's state",
                "a run goes on only from a checkpoint with it",
                "Begin a new run from these weights: begin_from=PATH.",
            )
        )
    if problems:
        raise CheckpointError.many(problems)


def lost_states(manifest: Manifest, config: RunConfig) -> str:
    """Return which states of a checkpoint the optimizer of a run does not have, in words; empty if it has all."""
    wanted = config.optimizer.spec.stored_states(manifest.shapes)
    states = ((state, name) for name, states in manifest.optimizer_states.items() for state in states)
    lost = Counter(state for state, name in states if state not in wanted.get(name, ()))
    return ", ".join(f"{state} of {number} weight{'s' * (number > 1)}" for state, number in lost.items())


def check_tokenizer(checkpoint: str, manifest: Manifest, data: Iterable[DataManifest]) -> None:
    """Raise DataError unless a new run reads text as the run did whose weights it begins with."""
    trained = tokenizer_of(manifest)
    for each in data:
        if trained not in (None, each.tokenizer.sha256):
            raise DataError.at(
                f"{each.tokenizer.name} ({each.tokenizer.file} of the data set)",
                found=f"tokenizer {each.tokenizer.sha256[:12]}...",
                allowed=f"the weights of {checkpoint} were trained with {str(trained)[:12]}..., and the same ids mean "
                "other text in another tokenizer",
                remedy="Build the data with that tokenizer, or begin with fresh weights: begin_from=null.",
            )


def tokenizer_of(manifest: Manifest) -> str | None:
    """Return the SHA-256 of the tokenizer that weights were trained with; None where nobody knows any more."""
    if manifest.tokenizer_sha256 is not None:
        return manifest.tokenizer_sha256
    # Checkpoints of earlier versions do not say; their data set does, if it is still the same.
    try:
        stream = TokenStream(config_from_plain(manifest.config, "").data)
    except (SisaScaleError, OSError):
        return None
    is_same = stream.fingerprint == manifest.data_fingerprint
    return stream.manifest.tokenizer.sha256 if is_same else None


def _locked_until(step: int, config: RunConfig) -> dict[str, Any]:
    """Return the locked settings; a stage of the mixture that the run has not reached may still change."""
    locked, batches = locked_settings(to_plain(config)), config.data.batches
    locked["data.stages"] = [stage.to_plain() for stage in config.data.stages if batches.steps(stage.start) < step]
    return locked


def _flatten(prefix: str, value: Any, out: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{prefix}.{key}", inner, out)
    else:
        out[prefix] = value
