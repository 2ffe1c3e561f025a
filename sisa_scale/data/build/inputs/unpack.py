"""Stored bytes into bytes of text: gzip, Zstandard, xz and bzip2 as streams that must end where they say."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.texts.records import BadRecordError

# Given to a decoder at a time: text of which all is the same is a thousand times as long unpacked.
_FED_BYTES = 1 << 14
# The longest window that the format's own tool makes (`zstd --long=31`); a decoder takes the memory of the window.
_MAX_WINDOW_BYTES = 1 << 31
_PACKED_BEGINNINGS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ\x00": ".xz", b"BZh": ".bz2"}
# Byte order marks, the longer ones first.
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_LOOKED_AT_BYTES = 64


def unpacked_chunks(file: Input, chunks: Iterable[bytes] | None = None) -> Iterator[bytes]:
    """Yield the text of a whole file. chunks: its stored bytes, if the caller reads them itself.

    Raises BadRecordError for a damaged or cut off stream, and for bytes that are plainly no UTF-8 text.
    """
    from zstandard import ZstdError

    unpack = _UNPACKERS.get(file.packing, iter)
    is_begun = False
    try:
        for chunk in unpack(file.chunks() if chunks is None else chunks):
            if not is_begun and chunk:
                _check_beginning(chunk, file)
                is_begun = True
            yield chunk
    except (EOFError, zlib.error, ZstdError, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or not file.packing):
            raise
        raise BadRecordError.at(
            file.label,
            found=f"a damaged or cut off {file.packing} stream ({error})",
            allowed="compressed files are whole",
            remedy="Copy or compress the file again.",
        ) from error


def _check_beginning(chunk: bytes, file: Input) -> None:
    packing = next((packing for magic, packing in _PACKED_BEGINNINGS.items() if chunk.startswith(magic)), None)
    if packing:
        raise BadRecordError.at(
            file.label,
            found=f"bytes packed as {packing} inside" if file.packing else f"bytes packed as {packing}",
            allowed="the ending of a name says how a file is packed",
            remedy=f"Unpack it{' once' if file.packing else f', or let its name end in {packing}'}.",
        )
    encoding = next((encoding for mark, encoding in _MARKS.items() if chunk.startswith(mark)), None)
    num_zeros = chunk[:_LOOKED_AT_BYTES].count(0)
    if encoding or 3 * num_zeros > len(chunk[:_LOOKED_AT_BYTES]):
        # Without a mark the order of the bytes tells where the zeros of Latin letters lie.
        guess = encoding or f"UTF-16{'BE' if chunk[0] == 0 else 'LE'}"
        raise BadRecordError.at(
            file.label,
            found=f"a byte order mark of {encoding}" if encoding else "zero bytes between the others, as in UTF-16",
            allowed="text is UTF-8",
            remedy=f"Convert it first, for example with: iconv -f {guess} -t UTF-8",
        )


def _unpack_gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    def new() -> Any:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    yield from _frames(chunks, new, lambda decoder, packed: decoder.decompress(packed), padding=b"\0")


def _unpack_zstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Not `stream_reader`: it ends without an error where a file was cut off.
    from zstandard import ZstdDecompressor

    def new() -> Any:
        return ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()

    yield from _frames(chunks, new, lambda decoder, packed: decoder.decompress(packed))


def _unpack_xz(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Zeros may follow a stream: padding to four bytes.
    yield from _frames(chunks, lzma.LZMADecompressor, lambda decoder, packed: decoder.decompress(packed), padding=b"\0")


def _unpack_bzip2(chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from _frames(chunks, bz2.BZ2Decompressor, lambda decoder, packed: decoder.decompress(packed))


def _frames(
    chunks: Iterable[bytes], new: Callable[[], Any], decode: Callable[[Any, bytes], bytes], padding: bytes = b""
) -> Iterator[bytes]:
    decoder = None
    for packed in chunks:
        for start in range(0, len(packed), _FED_BYTES):
            rest = packed[start : start + _FED_BYTES]
            while rest:
                if decoder is None and not (rest := rest.lstrip(padding) if padding else rest):
                    break
                decoder = decoder or new()
                yield decode(decoder, rest)
                rest = decoder.unused_data
                if decoder.eof:
                    decoder = None
    if decoder is not None:
        raise EOFError("the last frame has no end")


_UNPACKERS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    ".gz": _unpack_gzip,
    ".zst": _unpack_zstd,
    ".xz": _unpack_xz,
    ".bz2": _unpack_bzip2,
}
