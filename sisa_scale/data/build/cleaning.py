"""What a document must be to go in, which form its characters take, and whether it is held out."""

import hashlib
import unicodedata
from dataclasses import dataclass

NORMALIZATIONS = ("none", "nfc", "nfkc")
# Why a document is left out, in the order of the checks.
REASONS = ("below_min_characters", "below_min_tokens", "duplicate")

HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Rules for documents.

    text_field: of records; normalization: of Unicode, before everything else; min_characters, min_tokens: below them a
    document is left out; deduplicate: of documents with equal text only the first is kept.
    """

    text_field: str
    normalization: str
    min_characters: int
    min_tokens: int
    deduplicate: bool

    def normalize(self, text: str) -> str:
        """Return the text in the chosen form."""
        if self.normalization == "none" or text.isascii():
            return text
        return unicodedata.normalize("NFC" if self.normalization == "nfc" else "NFKC", text)


def is_heldout(text: str, fraction: float, seed: int) -> bool:
    """Say whether a document is held out: a hash of its text alone, so equal documents never part."""
    return is_heldout_bytes(text.encode(), fraction, seed)


def is_heldout_bytes(text: bytes, fraction: float, seed: int) -> bool:
    """Say it of a text in UTF-8."""
    if not fraction:
        return False
    digest = hashlib.blake2b(text, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < int(fraction * 2**64)


def content_hash(text: bytes) -> bytes:
    """Return the 16 bytes by which equal documents are found."""
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()
