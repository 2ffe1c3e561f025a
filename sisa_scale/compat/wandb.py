"""How far the files of an offline wandb run reach: their format is private, checked with wandb 0.31.0.

wandb writes records in the block format of LevelDB's log: a header of 7 bytes, then blocks of 32 KiB (the first one
counts the header), each record with checksum (4 bytes), length (2), type (1: whole, 2: first, 3: middle, 4: last part).
What wandb had not written when it was killed is missing at the end.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES, _HEADER_BYTES, _RECORD_BYTES = 1 << 15, 7, 7
_WHOLE, _FIRST, _LAST = 1, 2, 4


def last_step(directory: Path, run_id: str) -> int:
    """Return the last step that the offline files of a run below `directory` hold; -1 if they hold none."""
    files = sorted(directory.glob(f"wandb/offline-run-*-{run_id}/*.wandb"))
    return next((step for file in reversed(files) for step in reversed_steps(file)), -1)


def reversed_steps(file: Path) -> Iterator[int]:
    """Yield the steps of the history in a file, the last one first."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in reversed(list(records(file.read_bytes()))):
        record = Record()
        record.ParseFromString(data)
        if not record.HasField("history"):
            continue
        if record.history.HasField("step"):
            yield record.history.step.num


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file's content; a part that was cut off ends them."""
    position, parts = _HEADER_BYTES, b""
    while position + _RECORD_BYTES <= len(content):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _RECORD_BYTES:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        data = content[position + _RECORD_BYTES : position + _RECORD_BYTES + length]
        if len(data) < length or not _WHOLE <= kind <= _LAST:
            return
        parts = data if kind in (_WHOLE, _FIRST) else parts + data
        if kind in (_WHOLE, _LAST):
            yield parts
        position += _RECORD_BYTES + length
