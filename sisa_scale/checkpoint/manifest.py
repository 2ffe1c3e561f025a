"""What a checkpoint is on disk.

    checkpoints/step_00000500/
        rank_00000.safetensors   the slices one rank owned, and its random state
        manifest.json            written last: slices, sizes and SHA-256 of every file, the run's config and position

A slice is a contiguous range of one flattened tensor: the fp32 weight of a parameter or one of the optimizer's
states of it.
Slices say nothing of ranks or ZeRO stages, so any world size and stage can read what any other wrote. A directory
without a manifest is not a checkpoint. In an object store the files carry the writer's name, too.
"""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sisa_scale.checkpoint.problems import damaged, unreadable
from sisa_scale.checkpoint.storage import MANIFEST_NAME, open_place
from sisa_scale.errors import CheckpointError
from sisa_scale.files import sha256_file, write_text

FORMAT = "sisa-scale-checkpoint"
VERSION = 1
WEIGHT = "weight"
_FIRST_STATES = ("exp_avg", "exp_avg_sq")  # of manifests that do not say: AdamW was the only optimizer


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """Elements [start, start + length) of the flattened tensor `kind` of parameter `name`, and where they lie."""

    kind: str
    name: str
    start: int
    length: int
    file: str

    @property
    def key(self) -> str:
        """Name of the slice inside its file."""
        return f"{self.kind}/{self.name}/{self.start}"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size and checksum of one file."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything needed to trust and to read a checkpoint."""

    step: int
    tokens: int
    config: dict[str, Any]
    data_fingerprint: str
    world_size: int
    zero_stage: int
    shapes: dict[str, list[int]]
    slices: tuple[SliceInfo, ...]
    files: tuple[FileInfo, ...]  # by rank
    skipped_steps: int = 0  # of the steps, those that changed no weight
    optimizer_states: dict[str, tuple[str, ...]] = dataclasses.field(kw_only=True)  # names by parameter, or nothing
    tokenizer_sha256: str | None = None  # of the data; None where it is not known

    def to_text(self) -> str:
        """Return the manifest with its own checksum as one line of JSON."""
        body = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        body["slices"] = [[s.kind, s.name, s.start, s.length, s.file] for s in self.slices]
        return json.dumps({**body, "sha256": _digest(body)}) + "\n"

    @classmethod
    def from_json(cls, where: str, body: Any) -> Self:
        """Rebuild a manifest.

        Raises DamageError when it was changed, CheckpointError when it is whole and of another version.
        """
        if not isinstance(body, dict):
            raise damaged(where, "no mapping", "a manifest is a JSON object")
        claimed = body.pop("sha256", None)
        if claimed != _digest(body):
            raise damaged(
                where, "a manifest that does not match its own checksum", "manifests are never edited by hand"
            )
        if body.get("format") != FORMAT or body.get("version") != VERSION:
            raise CheckpointError.at(
                where,
                found=f"format {body.get('format')!r} version {body.get('version')!r}",
                allowed=f"this version reads {FORMAT} version {VERSION}",
                remedy="Read it with the version that wrote it.",
            )
        del body["format"], body["version"]
        body["slices"] = tuple(SliceInfo(*fields) for fields in body["slices"])
        body["files"] = tuple(FileInfo(**fields) for fields in body["files"])
        body["optimizer_states"] = _states(body)
        return cls(**body)

    @property
    def has_optimizer_states(self) -> bool:
        """Whether they are there: not in converted or averaged weights, which no run can go on from."""
        return bool(self.optimizer_states)

    @property
    def tensors(self) -> list[tuple[str, str]]:
        """Kind and parameter of every tensor."""
        return tensors(self.shapes, self.optimizer_states)

    def coverage_problems(self) -> list[str]:
        """Return what is missing or doubled: every tensor must be covered once, without gaps."""
        ranges: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for piece in self.slices:
            ranges[piece.kind, piece.name].append((piece.start, piece.length))
        problems = []
        for name, shape in self.shapes.items():
            size = 1
            for extent in shape:
                size *= extent
            for kind in (WEIGHT, *self.optimizer_states.get(name, ())):
                end = 0
                for start, length in sorted(ranges[kind, name]):
                    if start != end:
                        problems.append(f"{kind} of {name}: gap or overlap at element {end}")
                        break
                    end += length
                else:
                    if end != size:
                        problems.append(f"{kind} of {name}: {end} of {size} elements")
        return problems


def tensors(names: Collection[str], optimizer_states: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return kind and parameter of every tensor of a checkpoint: all weights, then the states, kind by kind."""
    kinds = dict.fromkeys(kind for states in optimizer_states.values() for kind in states)
    return [
        *((WEIGHT, name) for name in names),
        *((kind, name) for kind in kinds for name in names if kind in optimizer_states.get(name, ())),
    ]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest durably: from now on the directory is a checkpoint."""
    write_text(directory / MANIFEST_NAME, manifest.to_text())


def read_manifest(location: Path | str) -> Manifest:
    """Read the manifest of a checkpoint in a directory or at a URL.

    Raises DamageError when there is none or it is damaged, CheckpointError when it cannot be read at this time.
    """
    place = open_place(location)
    where = str(place.location(MANIFEST_NAME))
    try:
        body = json.loads(place.read(MANIFEST_NAME))
    except (FileNotFoundError, NotADirectoryError):
        raise damaged(where, "no such file", "a checkpoint is a directory with a manifest") from None
    except OSError as error:
        raise unreadable(where, error) from error
    except ValueError as error:
        raise damaged(where, f"unreadable JSON ({error})", "a manifest is JSON") from None
    manifest = Manifest.from_json(where, body)
    problems = manifest.coverage_problems()
    if problems:
        raise damaged(where, "; ".join(problems[:3]), "every tensor must be covered once, without gaps")
    return manifest


def verify_files(directory: Path, files: tuple[FileInfo, ...]) -> None:
    """Compare size and SHA-256 of files with the manifest.

    Raises DamageError at the first difference, CheckpointError when a file cannot be read at this time.
    """
    for info in files:
        path = directory / info.name
        try:
            num_bytes = path.stat().st_size
            digest = sha256_file(path) if num_bytes == info.num_bytes else ""
        except FileNotFoundError:
            raise damaged(path, "no such file", "the manifest lists it") from None
        except OSError as error:
            raise unreadable(path, error) from error
        if num_bytes != info.num_bytes:
            raise damaged(path, f"{num_bytes} bytes", f"the manifest says {info.num_bytes}")
        if digest != info.sha256:
            raise damaged(path, f"SHA-256 {digest[:12]}...", f"the manifest says {info.sha256[:12]}...")


def _states(body: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the states that a manifest records, or those that one without a record has."""
    if "optimizer_states" in body:
        return {name: tuple(states) for name, states in body["optimizer_states"].items()}
    has_states = {piece.kind for piece in body["slices"]} != {WEIGHT}
    return dict.fromkeys(body["shapes"], _FIRST_STATES) if has_states else {}


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
