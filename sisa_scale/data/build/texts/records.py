"""Records of a file: the good ones with their texts, the bad ones with what is wrong with them."""

from dataclasses import dataclass

from sisa_scale.errors import DataError, Problem

BOM = "\ufeff".encode()
SKIP_REMEDY = "or leave such records out with --on-bad-record skip."


class BadRecordError(DataError):
    """Something wrong with one record, or with one file as a whole, that a build may leave out."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record with a text. index: its line (JSON lines) or row (parquet) in the part of the file, from 0."""

    text: str
    index: int


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used. index: as that of a `Record`; problem: where it is and what is wrong."""

    index: int
    problem: Problem


def decode(raw: bytes, where: object) -> str:
    """Return bytes as text. Raises BadRecordError if they are not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError.at(
            where,
            found=f"the byte 0x{raw[error.start]:02x} at byte offset {error.start}",
            allowed="text is UTF-8",
            remedy="Convert it first, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error
