"""What a document must be to go in, which form its characters take, and whether it is held out."""

import hashlib
import unicodedata
from dataclasses import dataclass

NORMALIZATIONS = ("none", "nfc", "nfkc")
# Why a document is left out, in the order of the checks.
REASONS = ("below_min_characters", "below_min_tokens", "duplicate", "bad_record")

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
    return is_heldout_number(heldout_number(text, seed), fraction)


def is_heldout_number(number: int, fraction: float) -> bool:
    """Say it of the number that stands for a text."""
    return number < int(fraction * 2**64)


def heldout_number(text: bytes, seed: int) -> int:
    """Return the number below 2**64 that stands for a text: the lower, the smaller the share that holds it out."""
    digest = heldout_digest(seed)
    digest.update(text)
    return int.from_bytes(digest.digest(), "little")


def heldout_digest(seed: int) -> "hashlib.blake2b":
    """Return what makes that number, in its bytes from the lowest on, of a text that is given piece by piece."""
    return hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "little"))


def content_hash(text: bytes) -> bytes:
    """Return the 16 bytes by which equal documents are found."""
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()
