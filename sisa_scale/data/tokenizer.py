"""Text to token ids and back, through the `tokenizers` library."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.errors import ConfigError, DataError
from sisa_scale.files import sha256_file, write_text

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
EOS_NAMES = (END_OF_TEXT, "</s>")

_NUM_BYTES_AND_SPECIALS = 256 + 2


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer.

    path: its file; sha256: of that file; vocab_size: largest id + 1, added tokens included; eos_id: the id that ends
    every document. Names of special tokens inside a text are encoded as the plain characters that they are.
    """

    path: Path
    sha256: str
    vocab_size: int
    eos_id: int
    _backend: Any

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Names of the tokens that are found in a text before it is split into words, special ones included."""
        tokens = self._backend.get_added_tokens_decoder().values()
        return tuple(sorted(token.content for token in tokens))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without any special token."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of one text, without any special token."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens by their names."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a `tokenizer.json` file.

    Raises DataError when it is missing, cannot be read, has no end-of-document token, or would let a document forge it.
    """
    import tokenizers

    if not path.is_file():
        raise DataError.at(
            path, found="no such file", allowed="a tokenizer is a tokenizer.json file", remedy="Check the path."
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
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
    vocabulary = backend.get_vocab(with_added_tokens=True)
    eos_name = next((name for name in EOS_NAMES if name in vocabulary), None)
    if eos_name is None:
        raise DataError.at(
            path,
            found="no end-of-document token",
            allowed=f"the vocabulary holds one of {', '.join(EOS_NAMES)}",
            remedy="Add one of them as a special token.",
        )
    tokenizer = Tokenizer(path, sha256_file(path), max(vocabulary.values()) + 1, vocabulary[eos_name], backend)
    if tokenizer.eos_id in tokenizer.encode(f"a{eos_name} {eos_name}"):
        raise DataError.at(
            path,
            found=f"that the characters {eos_name} inside a text become the id {tokenizer.eos_id}",
            allowed="no text can forge the end of a document",
            remedy=f'Mark {eos_name} as "special": true among the added tokens.',
        )
    return tokenizer


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
