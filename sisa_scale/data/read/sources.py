"""The data sets that a run reads: opened, and checked to fit together."""

from dataclasses import dataclass
from pathlib import Path

from sisa_scale.config.data import DataConfig
from sisa_scale.data.manifest import Manifest, load_manifest, read_manifest, read_tokenizer
from sisa_scale.data.order.mixture import Mixture, Stage, source_seed, whole_shares
from sisa_scale.data.order.permutation import SequenceOrder
from sisa_scale.data.read.blocks import default_cache_directory
from sisa_scale.data.read.cache import BlockCache
from sisa_scale.data.read.reader import ShardReader
from sisa_scale.data.read.storage import LocalStorage, is_remote, open_storage
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.files import atomic_writer, sha256_file


@dataclass(frozen=True)
class Source:
    """One data set of a run. max_sequences: the most that the run may read of it; None: no limit."""

    name: str
    location: str
    manifest: Manifest
    reader: ShardReader
    order: SequenceOrder
    max_sequences: int | None


def load_manifests(config: DataConfig) -> dict[str, Manifest]:
    """Read the manifests of all sources by name and check their files; raises DataError if they do not fit together."""
    manifests = {name: load_manifest(source.path) for name, source in config.sources.items()}
    check_together(config, manifests)
    return manifests


def open_sources(config: DataConfig, split: str = "train") -> tuple[Source, ...]:
    """Open a split of all sources, in the order of `config.sources`. Raises ConfigError or DataError."""
    manifests = {name: read_manifest(source.path) for name, source in config.sources.items()}
    check_together(config, manifests)
    sources = []
    for number, (name, settings) in enumerate(config.sources.items()):
        layout = split_layout(manifests[name], split, config.sequence_tokens)
        seed = config.seed if len(manifests) == 1 and not config.mix else source_seed(config.seed, number)
        order = SequenceOrder(*layout, seed)
        limit = None if settings.max_epochs is None else int(settings.max_epochs * order.sequences_per_epoch)
        reader = open_reader(config, settings.path, manifests[name], split)
        sources.append(Source(name, settings.path, manifests[name], reader, order, limit))
    return tuple(sources)


def open_reader(config: DataConfig, location: str, manifest: Manifest, split: str) -> ShardReader:
    """Return the reader of one data set; one on a server reads through the cache that the config names."""
    cache = None
    if is_remote(location):
        cache = BlockCache(_cache_directory(config), config.cache_bytes)
    return ShardReader(open_storage(location), manifest, split, cache)


def tokenizer_path(config: DataConfig) -> Path:
    """Return the tokenizer file that all sources share; one on a server is copied to this node first."""
    source = next(iter(config.sources.values()))
    manifest, storage = read_manifest(source.path), open_storage(source.path)
    if isinstance(storage, LocalStorage):
        return storage.directory / manifest.tokenizer.file
    # With the manifest beside it, which says what ends a document.
    path = _cache_directory(config) / "tokenizers" / manifest.fingerprint / manifest.tokenizer.file
    if not path.exists() or sha256_file(path) != manifest.tokenizer.sha256:
        manifest.save(path.parent)
        with atomic_writer(path) as stream:
            stream.write(read_tokenizer(storage, manifest))
    return path


def build_mixture(config: DataConfig) -> Mixture:
    """Return which source every position of the run draws from. Raises ConfigError for a share that is too small."""
    names = list(config.sources)
    weights = {name: source.weight for name, source in config.sources.items()}
    stages = [(0, weights)]
    for stage in config.stages:
        start = config.batches.sequences_before(config.batches.steps(stage.start))
        stages.append((start, dict(stage.weights)))
    shares = [(start, whole_shares({name: weights[name] for name in names})) for start, weights in stages]
    return Mixture(config.seed, [Stage(start, tuple(share.values())) for start, share in shares])


def check_together(config: DataConfig, manifests: dict[str, Manifest]) -> None:
    """Raise DataError unless all sources were tokenized alike."""
    (first_name, first), *others = manifests.items()
    for name, manifest in others:
        for what in ("sha256", "vocab_size"):
            one, two = getattr(first.tokenizer, what), getattr(manifest.tokenizer, what)
            if one != two:
                raise DataError.at(
                    config.sources[name].path,
                    found=f"a tokenizer with {what} {two}",
                    allowed=f"all sources of a mixture have one tokenizer; that of {first_name} has {what} {one}",
                    remedy="Build the data sets with one tokenizer.",
                )
        if (first.dtype, first.eos_id) != (manifest.dtype, manifest.eos_id):
            raise DataError.at(
                config.sources[name].path,
                found=f"tokens stored as {manifest.dtype} with the end of document {manifest.eos_id}",
                allowed=f"all sources of a mixture are stored as {first_name}: {first.dtype}, {first.eos_id}",
                remedy="Build the data sets with one release.",
            )


def _cache_directory(config: DataConfig) -> Path:
    return Path(config.cache_directory) if config.cache_directory else default_cache_directory()


def split_layout(manifest: Manifest, split: str, sequence_tokens: int) -> tuple[int, int, int]:
    """Return (full blocks, sequences of the partial last block, sequences of a full block).

    Raises ConfigError if the length does not divide the block or is not the one that documents were packed for,
    DataError if there is not one sequence.
    """
    block_tokens = manifest.block_tokens
    packing = manifest.packing if split == "train" else None
    if packing is not None and packing.sequence_tokens != sequence_tokens:
        raise ConfigError.at(
            "data.sequence_tokens",
            found=str(sequence_tokens),
            allowed=f"{packing.sequence_tokens}: the documents of this data set were packed into rows of that length",
            remedy="Choose it, or build the data set again.",
        )
    if sequence_tokens < 1 or block_tokens % sequence_tokens:
        raise ConfigError.at(
            "sequence_tokens",
            found=str(sequence_tokens),
            allowed=f"a power of two up to {block_tokens}, the block of this data set",
            remedy="Choose one of these, or build the data set again with larger blocks.",
        )
    num_full_blocks, tail_tokens = divmod(manifest.split(split).num_tokens - 1, block_tokens)
    layout = num_full_blocks, tail_tokens // sequence_tokens, block_tokens // sequence_tokens
    if not any(layout[:2]):
        raise DataError.at(
            f"split {split!r}",
            found=f"{tail_tokens + 1} tokens",
            allowed=f"at least one sequence of {sequence_tokens} + 1 tokens",
            remedy="Choose shorter sequences, or build the data set from more text.",
        )
    return layout
