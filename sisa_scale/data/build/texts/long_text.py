"""Texts of any length in little memory: measured in one pass, then read in stretches, a piece at a time."""

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.inputs.unpack import unpacked_chunks
from sisa_scale.data.build.texts.cleaning import HASH_BYTES, Cleaning, heldout_digest
from sisa_scale.data.build.texts.cuts import WINDOW_BYTES, Cutting, IsExact, find_cut
from sisa_scale.data.build.texts.records import BOM, BadRecordError, decode

PIECE_BYTES = 1 << 19

_MAX_LINE_CHARACTERS = 1 << 22


@dataclass(frozen=True, slots=True)
class TextDigest:
    """What one pass over a text tells.

    num_bytes: of the file, unpacked; num_characters, heldout, content: of the text in its Unicode form, the latter two
    the hashes by which it is held out and found again; cuts: offsets at which units begin, the first 0.
    """

    num_bytes: int
    num_characters: int
    heldout: int
    content: str
    cuts: tuple[int, ...]


def digest_text(
    file: Input, cleaning: Cleaning, seed: int, unit_bytes: int, is_exact: Callable[[], IsExact]
) -> TextDigest:
    """Read a text once. is_exact: asked for only where the text is longer than `unit_bytes`.

    Raises BadRecordError for bytes that are no text.
    """
    heldout, content = heldout_digest(seed), hashlib.blake2b(digest_size=HASH_BYTES)
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_bytes, num_characters, is_begun = 0, 0, False
    cuts, window = [0], bytearray()
    pending: list[str] = []

    def flush(text: str) -> None:
        nonlocal num_characters, is_begun
        normal = cleaning.normalize(text if is_begun else text.removeprefix("\ufeff"))
        is_begun = is_begun or bool(text)
        num_characters += len(normal)
        raw = normal.encode()
        heldout.update(raw)
        content.update(raw)

    def cut() -> bool:
        """Cut near the beginning of the window, the text from the next place on; say whether text follows."""
        place = cuts[-1] + unit_bytes
        at = find_cut(bytes(window[:WINDOW_BYTES]), is_exact())
        if at >= len(window):
            return False
        cuts.append(place + at)
        del window[: at + unit_bytes]
        return True

    for chunk in unpacked_chunks(file):
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            at = num_bytes + error.start - (len(error.object) - len(chunk))
            raise _no_text(file, error.object[error.start], at) from error
        # Whole lines at a time: no Unicode form joins characters across the end of one.
        *lines, rest = text.rpartition("\n")
        if lines[1]:
            flush("".join((*pending, *lines)))
            pending.clear()
        pending.append(rest)
        if sum(map(len, pending)) > _MAX_LINE_CHARACTERS:
            flush("".join(pending))
            pending.clear()
        window += chunk[max(cuts[-1] + unit_bytes - num_bytes, 0) :]
        num_bytes += len(chunk)
        while len(window) > WINDOW_BYTES:
            cut()
    if decoder.getstate()[0]:
        raise _no_text(file, decoder.getstate()[0][0], num_bytes - len(decoder.getstate()[0]))
    while window and cut():
        pass
    flush("".join(pending))
    return TextDigest(
        num_bytes, num_characters, int.from_bytes(heldout.digest(), "little"), content.hexdigest(), tuple(cuts)
    )


def _no_text(file: Input, byte: int, at: int) -> BadRecordError:
    try:
        decode(bytes([byte]), file.label)
    except BadRecordError as error:
        problem = error.problems[0]
    return BadRecordError.at(
        problem.where,
        found=f"the byte 0x{byte:02x} at byte offset {at}",
        allowed=problem.allowed,
        remedy=problem.remedy,
    )


class _Bytes:
    """The text of a file from an offset on."""

    def __init__(self, file: Input, start: int) -> None:
        self._chunks = unpacked_chunks(file) if file.packing else file.chunks(start)
        self.position = 0 if file.packing else start
        self._rest = b""

    def read(self, num_bytes: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        pieces, missing = [], num_bytes
        while missing:
            chunk = self._rest or next(self._chunks, b"")
            if not chunk:
                break
            pieces.append(chunk[:missing])
            self._rest = chunk[missing:]
            missing -= len(pieces[-1])
        self.position += num_bytes - missing
        return b"".join(pieces)

    def skip_to(self, offset: int) -> None:
        while self.position < offset and self.read(min(PIECE_BYTES, offset - self.position)):
            pass


# Where the last stretch of a packed file ended, so that the next need not unpack from the beginning.
_left_off: dict[Input, _Bytes] = {}


def open_bytes(file: Input, start: int) -> _Bytes:
    """Return the text of a file from an offset on; a packed one goes on where it was left, if that is before."""
    stream = _left_off.pop(file, None)
    _left_off.clear()
    if stream is None or stream.position > start:
        stream = _Bytes(file, start)
    stream.skip_to(start)
    if file.packing:
        _left_off[file] = stream
    return stream


def read_pieces(file: Input, start: int, stop: int, is_exact: IsExact) -> Iterator[str]:
    """Yield the text between two offsets in pieces of about `PIECE_BYTES`, cut where the ids show no trace of it."""
    stream = open_bytes(file, start)
    raw = b"" if start else stream.read(len(BOM)).removeprefix(BOM)
    while True:
        wanted = min(PIECE_BYTES + WINDOW_BYTES - len(raw), stop - stream.position)
        raw += stream.read(max(0, wanted))
        if len(raw) < PIECE_BYTES + WINDOW_BYTES:
            break
        at = PIECE_BYTES + find_cut(raw[PIECE_BYTES:], is_exact)
        yield decode(raw[:at], file.label)
        raw = raw[at:]
    if raw:
        yield decode(raw, file.label)


def place_stretches(file: Input, cutting: Cutting, num_bytes: int) -> list[tuple[int, int, int]]:
    """Return (start, stop, split) of the stretches that a long text is cut into."""
    return cutting.placed(num_bytes, lambda offset, size: open_bytes(file, offset).read(size))
