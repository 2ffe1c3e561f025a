"""Text to token ids and back, through the `tokenizers` library."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.data.problems import os_errors
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.files import write_text

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
# What tokenizers call the token that ends a document, the base model's before that of a turn in a conversation:
# GPT-2, NeoX, Qwen; Llama 1 and 2, Mistral, T5; Llama 3; Gemma; DeepSeek; Hymba and others; BERT.
EOS_NAMES = (
    *(END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>", "<|endofdocument|>", "<|eos|>"),
    *("[EOS]", "<EOS>", "<end_of_text>", "<|eot_id|>", "<|im_end|>", "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "[SEP]"),
)

_NUM_BYTES_AND_SPECIALS = 256 + 2
# While it works the library takes about 200 bytes a character.
_GROUP_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer.

    path: its file; sha256: of that file; vocab_size: largest id + 1, added tokens included; eos_id: the id that ends
    every document; randomness: the setting of the file that would draw ids at random, switched off here, or "". Names
    of special tokens inside a text are encoded as the plain characters that they are.
    """

    path: Path
    sha256: str
    vocab_size: int
    eos_id: int
    _backend: Any
    randomness: str = ""

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Names of the tokens that are found in a text before it is split into words, special ones included."""
        tokens = self._backend.get_added_tokens_decoder().values()
        return tuple(sorted(token.content for token in tokens))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without any special token."""
        return encode_batch(self._backend, texts)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of one text, without any special token."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens by their names."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))


def encode_batch(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without any special token. backend: of `load_backend`."""
    ids: list[list[int]] = []
    for group in _groups(texts):
        encodings = backend.encode_batch_fast(group, add_special_tokens=False)
        ids += [encoding.ids for encoding in encodings]
    return ids


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts, in order, as many at a time as the library is given."""
    group: list[str] = []
    num_characters = 0
    for text in texts:
        if group and num_characters + len(text) > _GROUP_CHARACTERS:
            yield group
            group, num_characters = [], 0
        group.append(text)
        num_characters += len(text)
    if group:
        yield group


def load_tokenizer(path: Path, eos_token: str | None = None) -> Tokenizer:
    """Load a `tokenizer.json` file.

    eos_token: name of the token that ends a document. Left out, it is that of the data set in which the file lies, else
    the first of `EOS_NAMES` that the file holds, special ones before others.

    Raises DataError when it is missing, cannot be read, has no end-of-document token, or would let a document forge it.
    """
    raw, backend, randomness = load_backend(path)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    special = sorted(token.content for token in backend.get_added_tokens_decoder().values() if token.special)
    eos_id = _eos_id(path, eos_token, vocabulary, special)
    digest = hashlib.sha256(raw).hexdigest()
    tokenizer = Tokenizer(path, digest, max(vocabulary.values()) + 1, eos_id, backend, randomness)
    eos_name = backend.id_to_token(eos_id)
    if eos_id in tokenizer.encode(f"a{eos_name} {eos_name}"):
        raise DataError.at(
            path,
            found=f"that the characters {eos_name} inside a text become the id {tokenizer.eos_id}",
            allowed="no text can forge the end of a document",
            remedy=f'Mark {eos_name} as "special": true among the added tokens'
            + (f", or end documents with one that is: --eos-token '{special[0]}'." if special else "."),
        )
    return tokenizer


def load_backend(path: Path) -> tuple[bytes, Any, str]:
    """Return a `tokenizer.json` file, what encodes as it says, and what of it was switched off since it is random.

    Raises DataError when it is missing or cannot be read.
    """
    import tokenizers

    with os_errors(path):
        if not path.is_file():
            raise DataError.at(
                path, found="no such file", allowed="a tokenizer is a tokenizer.json file", remedy="Check the path."
            )
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
        randomness = _switch_off_randomness(content["model"])
        backend = tokenizers.Tokenizer.from_str(json.dumps(content) if randomness else raw.decode())
    except Exception as error:  # the library raises bare Exception
        raise DataError.at(
            path,
            found=f"a file that the tokenizers library cannot read ({error})",
            allowed="a tokenizer.json file written by that library",
            remedy="Copy it again from its origin.",
        ) from error
    # A truncation or padding rule in the file would silently drop text or add to it.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return raw, backend, randomness


def _eos_id(path: Path, eos_token: str | None, vocabulary: Mapping[str, int], special: Sequence[str]) -> int:
    names = EOS_NAMES if eos_token is None else (eos_token,)
    noted = _noted_eos_id(path) if eos_token is None else None
    if noted is not None and noted in vocabulary.values():
        return noted
    name = next((name for name in names if name in special), next((name for name in names if name in vocabulary), None))
    if name is None:
        raise DataError.at(
            path,
            found="no end-of-document token" if eos_token is None else f"no token {eos_token!r}",
            allowed=f"the vocabulary holds one of {', '.join(EOS_NAMES)}, or the one that --eos-token names",
            remedy=f"Name one of its special tokens with --eos-token: {', '.join(special[:20])}."
            if special
            else f'Add one of them as a special token, for example {END_OF_TEXT} with "special": true.',
        )
    return vocabulary[name]


def _noted_eos_id(path: Path) -> int | None:
    """Return the end of document of the data set in which a tokenizer lies, if it does."""
    try:
        content = json.loads((path.parent / "dataset.json").read_bytes())
        is_its = content["tokenizer"]["file"] == path.name
        return int(content["eos_id"]) if is_its else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _switch_off_randomness(model: dict[str, Any]) -> str:
    """Set what draws ids at random to null; return what was set, or nothing."""
    found = [f"model.{key} {model[key]}" for key in ("dropout", "nbest_size", "alpha") if model.get(key)]
    model.update({key: None for key in ("dropout", "nbest_size", "alpha") if key in model})
    return ", ".join(found)


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> Tokenizer:
    """Train a byte-level BPE tokenizer, write it to `path` atomically, and load it.

    The end-of-document token has id 0, the padding token id 1. Every text round-trips byte for byte. The same texts
    give the same file. A small corpus gives fewer than `vocab_size` ids. Raises ConfigError below 258 ids.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < _NUM_BYTES_AND_SPECIALS:
        raise ConfigError.at(
            "vocab_size",
            found=str(vocab_size),
            allowed=f"at least {_NUM_BYTES_AND_SPECIALS}: all 256 bytes and two special tokens",
            remedy="Raise it.",
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    write_text(path, backend.to_str(pretty=True) + "\n")
    return load_tokenizer(path)
