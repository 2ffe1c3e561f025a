"""What a data set is: `dataset.json` beside its shards.

The fingerprint covers every field that decides what a model is trained on and how the result is counted, and nothing
that says where the data set lies or what its source files were called.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sisa_scale.data.read.storage import Buffer, LocalStorage, Storage, open_storage
from sisa_scale.errors import DataError
from sisa_scale.files import write_json

FORMAT = "sisa-scale-token-blocks"
VERSION = 2
READABLE_VERSIONS = (1, VERSION)
MANIFEST_NAME = "dataset.json"
TOKENIZER_NAME = "tokenizer.json"
INDEX_MEMBER = "__index__"

_REBUILD = "Copy the data set again from where it was built, or build it again."


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """The tokenizer: its copy beside the shards, the SHA-256 of that, its number of ids, the name it came with."""

    file: str
    sha256: str
    vocab_size: int
    name: str


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """One text file that went in, as it was on disk. name: its path relative to what all the files have in common."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One data tar.

    num_tokens: as stored, so the token that two neighbouring blocks share counts in both; index_sha256: of its index,
    which holds a checksum of every block; empty in data sets of version 1.
    """

    name: str
    num_bytes: int
    sha256: str
    num_blocks: int
    num_tokens: int
    index_sha256: str = ""

    @property
    def index_name(self) -> str:
        """Name of the index file beside the shard."""
        return self.name.removesuffix(".tar") + ".idx.json"


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split.

    num_tokens: its token stream, one end-of-document token a document included, of which all but the first are targets;
    num_bytes: its text in UTF-8; unigram_entropy_nats: of the frequencies of its tokens, the loss of the best model
    that knows no context.
    """

    num_documents: int
    num_tokens: int
    num_bytes: int
    num_blocks: int
    unigram_entropy_nats: float
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, slots=True)
class PackingInfo:
    """How the documents of the split "train" were packed, where not one after the other: see `data.packing`."""

    kind: str
    sequence_tokens: int
    num_padding_tokens: int


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """How a data set came to be; no part of the fingerprint, because equal tokens are equal data sets.

    engine, engine_version: what tokenized; num_verified_documents: strings on which it gave the reference's ids first;
    unicode_version: of the normalization; num_removed: documents left out, by reason; files: SHA-256 by name of the
    files beside the shards; heldout_rule: see `data.build.holding`; lost_share: of the characters of a sample, those
    that do not come back from the ids; passed_over: files among the inputs that were not read (name, reason), at most
    the first 1000 of `num_passed_over`; bad_records: the first that were left out (file, where, found).
    """

    engine: str
    engine_version: str
    num_verified_documents: int
    text_field: str
    normalization: str
    unicode_version: str
    min_characters: int
    min_tokens: int
    deduplicate: bool
    num_removed: Mapping[str, int]
    files: Mapping[str, str]
    heldout_rule: str = "hash"
    lost_share: float = 0.0
    on_bad_record: str = "fail"
    passed_over: tuple[Mapping[str, str], ...] = ()
    num_passed_over: int = 0
    bad_records: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A data set.

    dtype: of the stored tokens, little-endian; block_tokens: targets of a full block; seed, heldout_fraction: of the
    choice of the held-out documents; splits: "train" and, unless nothing was held out, "heldout"; packing: None where
    documents follow one another; build: None in data sets of earlier releases.
    """

    dtype: str
    block_tokens: int
    eos_id: int
    seed: int
    heldout_fraction: float
    tokenizer: TokenizerInfo
    sources: tuple[SourceInfo, ...]
    splits: Mapping[str, SplitInfo]
    packing: PackingInfo | None = None
    build: BuildInfo | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal, the same wherever the data set lies."""
        return _fingerprint(self._content())

    @property
    def item_bytes(self) -> int:
        """Bytes of a stored token."""
        return int(self.dtype[-1])

    @property
    def has_index_hashes(self) -> bool:
        """Whether the manifest covers the indexes of the shards; in version 1 it covers the shards alone."""
        return all(shard.index_sha256 for split in self.splits.values() for shard in split.shards[:1])

    def split(self, name: str) -> SplitInfo:
        """Return a split. Raises DataError if there is none of that name."""
        if name not in self.splits:
            raise DataError.at(
                MANIFEST_NAME,
                found=f"no split {name!r}",
                allowed=f"this data set has {', '.join(self.splits)}",
                remedy="Ask for one of these, or build the data set again with documents held out.",
            )
        return self.splits[name]

    def save(self, directory: Path) -> None:
        """Write `dataset.json` atomically."""
        write_json(directory / MANIFEST_NAME, self._content() | {"fingerprint": self.fingerprint})

    def _content(self) -> dict[str, Any]:
        content = {key: value for key, value in asdict(self).items() if value is not None}
        return {"format": FORMAT, "version": VERSION} | content

    @classmethod
    def _parse(cls, content: Mapping[str, Any]) -> Self:
        fields = {key: content[key] for key in ("dtype", "block_tokens", "eos_id", "seed", "heldout_fraction")}
        splits = {
            name: SplitInfo(**split | {"shards": tuple(ShardInfo(**shard) for shard in split["shards"])})
            for name, split in content["splits"].items()
        }
        sources = tuple(SourceInfo(**source) for source in content["sources"])
        packing = PackingInfo(**content["packing"]) if "packing" in content else None
        build = BuildInfo(**content["build"]) if "build" in content else None
        tokenizer = TokenizerInfo(**content["tokenizer"])
        return cls(**fields, tokenizer=tokenizer, sources=sources, splits=splits, packing=packing, build=build)


def token_dtype(vocab_size: int) -> str:
    """Return the numpy name of the smallest type, 2 or 4 bytes little-endian, that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def read_manifest(location: str | Path) -> Manifest:
    """Read `dataset.json` in a directory or at a URL; the shards are not looked at.

    Raises DataError if it is missing, of another format, or changed by hand.
    """
    storage = open_storage(location)
    where = storage.where(MANIFEST_NAME)
    raw = storage.read(MANIFEST_NAME)
    try:
        content = json.loads(raw)
        kind = (content["format"], content["version"])
        if kind[0] != FORMAT or kind[1] not in READABLE_VERSIONS:
            raise DataError.at(
                where,
                found=f"format {kind[0]!r}, version {kind[1]!r}",
                allowed=f"this release reads {FORMAT!r}, versions {' and '.join(map(str, READABLE_VERSIONS))}",
                remedy="Build the data set again, or use the release that built it.",
            )
        recorded = content.pop("fingerprint")
        manifest, found = Manifest._parse(content), _fingerprint(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError.at(
            where,
            found=f"a file that is no manifest ({type(error).__name__}: {error})",
            allowed="the manifest is as it was written",
            remedy=_REBUILD,
        ) from error
    if found != recorded:
        raise DataError.at(
            where,
            found=f"the fingerprint {recorded}, but its fields give {found}",
            allowed="the manifest is as it was written",
            remedy=f"It was changed after the build. {_REBUILD}",
        )
    manifest.__dict__["fingerprint"] = found
    return manifest


def load_manifest(location: str | Path) -> Manifest:
    """Read the manifest of a data set; in a directory, check that every file it names is there and of its size.

    Raises DataError as `read_manifest`, or for the first file that differs. The contents of the shards are checked as
    they are read; `verify.verify_dataset` checks them all at once.
    """
    manifest, storage = read_manifest(location), open_storage(location)
    read_tokenizer(storage, manifest)
    if isinstance(storage, LocalStorage):
        _check_files(storage.directory, manifest)
    return manifest


def _fingerprint(content: Mapping[str, Any]) -> str:
    covered = {key: value for key, value in content.items() if key not in ("sources", "build")}
    covered["tokenizer"] = {key: value for key, value in covered["tokenizer"].items() if key != "name"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_tokenizer(storage: Storage, manifest: Manifest) -> bytes:
    """Return the tokenizer file of a data set. Raises DataError if it is missing or another one."""

    def check(data: Buffer) -> None:
        found, expected = hashlib.sha256(data).hexdigest(), manifest.tokenizer.sha256
        if found != expected:
            raise DataError.at(
                storage.where(manifest.tokenizer.file),
                found=f"the SHA-256 {found}",
                allowed=f"the manifest says {expected}",
                remedy=_REBUILD,
            )

    return storage.read(manifest.tokenizer.file, check)


def _check_files(directory: Path, manifest: Manifest) -> None:
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(directory) if entry.is_file()}
    for split in manifest.splits.values():
        for shard in split.shards:
            for name in (shard.name, shard.index_name):
                if name not in sizes:
                    raise DataError.at(
                        directory / name,
                        found="no such file",
                        allowed="every file that the manifest names is there",
                        remedy=_REBUILD,
                    )
            if sizes[shard.name] != shard.num_bytes:
                raise DataError.at(
                    directory / shard.name,
                    found=f"{sizes[shard.name]} bytes",
                    allowed=f"the manifest says {shard.num_bytes} bytes",
                    remedy=f"The file is cut off or from another build. {_REBUILD}",
                )
