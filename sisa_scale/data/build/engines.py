"""The libraries that can turn text into ids: `tokenizers` is the reference, the others must prove themselves equal.

A fast engine is used only after it has given the reference's ids for a list of awkward strings and for a sample of the
corpus. `fastokens` is tried before `gigatoken`: about as fast, and the same as the reference on the newest characters.
"""

import importlib.metadata
import json
import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sisa_scale.data.tokenizer import Tokenizer, encode_batch, load_backend
from sisa_scale.errors import ConfigError

REFERENCE = "tokenizers"
FAST_ENGINES = ("fastokens", "gigatoken")
ENGINES = ("auto", REFERENCE, *FAST_ENGINES)

_SAMPLE_CHARACTERS = 1 << 20
_REMEMBERED_CHARACTERS = 1 << 27
_SAMPLE_DOCUMENT_CHARACTERS = 1 << 15

Ids = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]


class Engine(Protocol):
    """Turns texts into ids; no text can forge a special token."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        """Return the ids of all texts one after the other, and where each begins: one offset more than texts."""
        ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine and its release. num_verified_documents: strings on which it was found equal to the reference."""

    name: str
    version: str
    num_verified_documents: int


class _Reference:
    def __init__(self, path: Path) -> None:
        _, self._backend, _ = load_backend(path)

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        return _flat(encode_batch(self._backend, texts))


def _flat(ids: Sequence[Sequence[int]]) -> tuple[Ids, Offsets]:
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in ids], out=offsets[1:])
    return np.fromiter(chain.from_iterable(ids), dtype=np.uint32, count=int(offsets[-1])), offsets


class _Fastokens:
    """It keeps the ids of every word that it has seen, about 100 bytes a word, so it begins anew now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        import fastokens

        self._backend = fastokens.Tokenizer.from_file(str(self._path))
        self._backend.no_truncation()
        self._num_characters = 0

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        if self._num_characters > _REMEMBERED_CHARACTERS:
            self._begin()
        self._num_characters += sum(map(len, texts))
        ids, offsets = self._backend.encode_batch_flat(list(texts), split_special_tokens=True)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


class _Gigatoken:
    def __init__(self, path: Path) -> None:
        import gigatoken

        content = json.loads(path.read_bytes())
        # It has no switch for special tokens inside a text; without their entries they are plain characters.
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
        self._backend = gigatoken.Tokenizer.from_json(json.dumps(content)).backend

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        layout: Any = self._backend.encode_batch(list(texts), parallel=False).layout
        return np.asarray(layout.content.data), np.asarray(layout.offsets.data, dtype=np.int64)


_CLASSES: dict[str, Callable[[Path], Engine]] = {
    REFERENCE: _Reference,
    "fastokens": _Fastokens,
    "gigatoken": _Gigatoken,
}


@lru_cache(maxsize=2)
def open_engine(name: str, version: str, tokenizer_path: Path, sha256: str) -> Engine:
    """Load an engine that was chosen before. Raises ConfigError if it is not there in this version."""
    found = installed_version(name)
    if found != version:
        raise ConfigError.at(
            f"engine {name}",
            found=f"version {found}" if found else "no such package",
            allowed=f"every worker of a build uses version {version}",
            remedy=f"Install it everywhere: pip install {name}=={version}",
        )
    return _CLASSES[name](tokenizer_path)


def installed_version(name: str) -> str | None:
    """Return the version of an engine, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def choose_engine(
    name: str, tokenizer: Tokenizer, sample: Iterable[str], announce: Callable[[str], None]
) -> EngineInfo:
    """Return the engine to use: the one asked for, or for "auto" the first that is installed and proves itself equal.

    sample: documents of the corpus, of which about a million characters are taken. Raises ConfigError for an engine
    asked for by name that is missing or differs from the reference; "auto" says so and takes the next.
    """
    if name not in ENGINES:
        raise ConfigError.at("engine", found=name, allowed=f"one of {', '.join(ENGINES)}", remedy="Choose one.")
    candidates = FAST_ENGINES if name == "auto" else (name,) if name != REFERENCE else ()
    texts: list[str] = []
    expected: tuple[Ids, Offsets] | None = None
    for candidate in candidates:
        version = installed_version(candidate)
        reason: str | None = "it is not installed"
        if version is not None:
            if expected is None:
                texts = awkward_texts(tokenizer) + _cut(sample)
                expected = _flat(tokenizer.encode_batch(texts))
            reason = _difference(candidate, tokenizer, texts, expected)
        if version is not None and reason is None:
            return EngineInfo(candidate, version, len(texts))
        if name != "auto":
            raise ConfigError.at(
                f"engine {name}",
                found=f"that {reason}",
                allowed=f"an engine gives the same ids as {REFERENCE}",
                remedy=f'Use --engine {REFERENCE}, or install it: pip install "sisa-scale[fast-tokenizer]" {name}',
            )
        if version is not None:
            announce(f"engine {candidate} {version} is not used: {reason}")
    if name == "auto":
        announce(f'tokenizing with {REFERENCE}; a fast engine comes with: pip install "sisa-scale[fast-tokenizer]"')
    return EngineInfo(REFERENCE, installed_version(REFERENCE) or "", 0)


def _difference(name: str, tokenizer: Tokenizer, texts: list[str], expected: tuple[Ids, Offsets]) -> str | None:
    try:
        ids, offsets = _CLASSES[name](tokenizer.path).encode_batch(texts)
    except Exception as error:  # each library has its own, and a panic of Rust is a bare one
        return f"it cannot use this tokenizer ({str(error).partition(chr(10))[0]})"
    if np.array_equal(ids, expected[0]) and np.array_equal(offsets, expected[1]):
        return None
    for number, text in enumerate(texts):
        mine, theirs = (part[0][part[1][number] : part[1][number + 1]] for part in ((ids, offsets), expected))
        if not np.array_equal(mine, theirs):
            first = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), -1)
            return f"it differs from {REFERENCE} in a text that begins {text[:40]!a}, at token {first}"
    return f"it differs from {REFERENCE}"


def _cut(sample: Iterable[str]) -> list[str]:
    texts: list[str] = []
    num_characters = 0
    for text in sample:
        texts.append(text[:_SAMPLE_DOCUMENT_CHARACTERS])
        num_characters += len(texts[-1])
        if num_characters >= _SAMPLE_CHARACTERS:
            break
    return texts


def awkward_texts(tokenizer: Tokenizer) -> list[str]:
    """Return strings on which tokenizers are known to part, the same each time.

    Every character below U+20000 once, every combining mark on a letter, forged special tokens, runs of each kind of
    space, contractions, digits, long runs, and random mixtures of all these.
    """
    specials = list(tokenizer.added_tokens)
    pieces = [*specials, *(name[:-1] for name in specials), *_PIECES]
    marks = [chr(code) for code in range(0x20000) if unicodedata.combining(chr(code))]
    texts = ["", *pieces, *(f"a{piece}b {piece} {piece}" for piece in pieces)]
    texts += [
        run * count
        for run in (" ", "\t", "\n", "\r\n", "a", "é", "0", "-", "\u00a0", "🐳")
        for count in (2, 3, 17, 300)
    ]
    codes = [chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    texts += ["".join(codes[start : start + 64]) for start in range(0, len(codes), 64)]
    texts += ["".join(f"e{mark}" for mark in marks[start : start + 16]) for start in range(0, len(marks), 16)]
    generator = random.Random(0)
    alphabet = [*pieces, *generator.sample(codes, 400), *generator.sample(marks, 50), *"abcdefgh 0123456789\n\t'.,"]
    texts += ["".join(generator.choices(alphabet, k=generator.randint(1, 24))) for _ in range(2000)]
    return texts


_PIECES = (
    *("'s", "'S", "'t", "'re", "'ve", "'m", "'ll", "'d", "'LL", "\t's", " 's", "’s", "don't", "I'll've"),
    *("\u1100\u1161\u11a8", "각", "\u212b", "Å", "ﬁ", "①", "ｱ", "²", "ı", "İ", "ß", "ẞ", "Ǆ", "ς"),
    *(
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u00ad",
        "\u2028",
        "\u2029",
        "\u0085",
        "\u3000",
        "\u1680",
        "\u180e",
        "\x00",
        "\x1c",
    ),
    *("👩\u200d👩\u200d👧", "🇩🇪", "🏳️\u200d🌈", "e\u0301\u0323", "\u0344", "\u0958", "\U0001d15e"),
    # Compositions of Unicode 16: an engine with other tables than the reference parts from it here.
    *("\U000105d2\u0307", "\U000105da\u0307", "\U00011382\U000113c9", "\U0001611e\U0001611e", "\U00016d67\U00016d67"),
    *("3.14159", "1,000,000", "0x1F", "10%", "$5", "a_b", "__init__", "C++", "http://a.b/c?d=e&f#g", "a@b.c"),
    *("…", "—", "«»", "¿?", "\\n", "&amp;", "</s>", "<s>", "<|", "|>", "[INST]", "▁", "Ġ", "Ċ", "ñ"),
    *("भारत", "中文字符", "日本語", "ไทย", "עברית", "العربية", "ქართული", "አማርኛ", "한국어"),
)
