"""Reading every byte of a data set, and comparing two of them."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sisa_scale.data.manifest import INDEX_MEMBER, Manifest, ShardInfo, load_manifest, read_manifest
from sisa_scale.data.read.storage import LocalStorage, Storage, open_storage, unreadable
from sisa_scale.errors import DataError

Progress = Callable[[str, int], None]

_CHUNK_BYTES = 1 << 22
_REMEDY = "Copy it again from where the data set was built, or build the data set again."


class Difference(NamedTuple):
    """Something in which two data sets differ."""

    what: str
    first: Any
    second: Any


def verify_dataset(location: str, progress: Progress | None = None) -> Manifest:
    """Read every file of a data set and compare it with the manifest.

    progress: gets the name of a shard and how many bytes of it were read since the last call. Raises DataError for the
    first file that differs.
    """
    manifest, storage = load_manifest(location), open_storage(location)
    for split in manifest.splits.values():
        for shard in split.shards:
            _verify_shard(storage, shard, progress or (lambda name, num_bytes: None))
    if manifest.build is not None:
        for name, expected in manifest.build.files.items():
            _compare(storage.where(name), hashlib.sha256(storage.read(name)).hexdigest(), expected)
    return manifest


def compare_datasets(first: str, second: str) -> list[Difference]:
    """Return in what two data sets differ, by their manifests; no difference means equal tokens in equal order."""
    before, after = read_manifest(first), read_manifest(second)
    return list(_differences(before, after)) if before.fingerprint != after.fingerprint else []


def _differences(before: Manifest, after: Manifest) -> Iterator[Difference]:
    yield Difference("fingerprint", before.fingerprint, after.fingerprint)
    yield from _fields("", before, after, ("dtype", "block_tokens", "eos_id", "seed", "heldout_fraction", "packing"))
    yield from _fields("tokenizer ", before.tokenizer, after.tokenizer, ("sha256", "vocab_size", "name"))
    names = [[source.name for source in manifest.sources] for manifest in (before, after)]
    hashes = [{source.sha256: source.name for source in manifest.sources} for manifest in (before, after)]
    for sha256 in hashes[0].keys() ^ hashes[1].keys():
        yield Difference("source", hashes[0].get(sha256), hashes[1].get(sha256))
    if hashes[0].keys() == hashes[1].keys() and names[0] != names[1]:
        yield Difference("names of sources", ", ".join(names[0]), ", ".join(names[1]))
    for split in [*before.splits, *(name for name in after.splits if name not in before.splits)]:
        one, two = before.splits.get(split), after.splits.get(split)
        if one is None or two is None:
            yield Difference(f"split {split}", "there" if one else "missing", "there" if two else "missing")
            continue
        counts = ("num_documents", "num_tokens", "num_bytes", "num_blocks", "unigram_entropy_nats")
        yield from _fields(f"{split} ", one, two, counts)
        yield from _fields(f"{split} ", _Shards(len(one.shards)), _Shards(len(two.shards)), ("num_shards",))
        for left, right in zip(one.shards, two.shards, strict=False):
            if left.sha256 != right.sha256:
                yield Difference(f"{split} {left.name}, the first shard that differs", left.sha256, right.sha256)
                break


class _Shards(NamedTuple):
    num_shards: int


def _fields(prefix: str, before: object, after: object, names: tuple[str, ...]) -> Iterator[Difference]:
    for name in names:
        one, two = getattr(before, name), getattr(after, name)
        if one != two:
            yield Difference(prefix + name, one, two)


def _verify_shard(storage: Storage, shard: ShardInfo, progress: Progress) -> None:
    digest, index = _read_local(storage, shard, progress) if isinstance(storage, LocalStorage) else (None, None)
    if digest is None:
        data = storage.read(shard.name)
        progress(shard.name, len(data))
        digest, index = hashlib.sha256(data).hexdigest(), _index_of(io.BytesIO(data))
    _compare(storage.where(shard.name), digest, shard.sha256)
    beside = storage.read(shard.index_name)
    if beside != index:
        raise DataError.at(
            storage.where(shard.index_name),
            found="another index than the shard holds",
            allowed=f"it is a copy of the member {INDEX_MEMBER} of {shard.name}",
            remedy=_REMEDY,
        )


def _read_local(storage: LocalStorage, shard: ShardInfo, progress: Progress) -> tuple[str, bytes | None]:
    digest = hashlib.sha256()
    try:
        with (storage.directory / shard.name).open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                progress(shard.name, len(chunk))
            if digest.hexdigest() != shard.sha256:
                return digest.hexdigest(), None
            stream.seek(0)
            return digest.hexdigest(), _index_of(stream)
    except OSError as error:
        raise unreadable(storage.where(shard.name), error) from error


def _index_of(stream: Any) -> bytes | None:
    try:
        with tarfile.open(fileobj=stream) as archive:
            member = archive.extractfile(INDEX_MEMBER)
            return member.read() if member is not None else None
    except (tarfile.TarError, KeyError):
        return None


def _compare(where: str, found: str, expected: str) -> None:
    if found != expected:
        raise DataError.at(where, found=f"the SHA-256 {found}", allowed=f"the manifest says {expected}", remedy=_REMEDY)
