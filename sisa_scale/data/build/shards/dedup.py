"""Which documents repeat the text of an earlier one.

Every document has a hash of 16 bytes. The hashes are spread over files by their first bits, so that each file is small
enough to be sorted in memory. Memory: about 100 bytes times `max_documents`, whatever the corpus; disk: 25 bytes a
document; time: one pass and the sorting.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_DOCUMENTS = 1 << 22

_HASHED = np.dtype([("number", "<u8"), ("hash", "<u8", (2,))])
_MAX_FILES = 512

Hashes = npt.NDArray[np.uint64]


def find_duplicates(
    hashes: Iterable[Hashes], num_documents: int, scratch: Path, max_documents: int = MAX_DOCUMENTS
) -> npt.NDArray[np.bool_]:
    """Return for each document whether an earlier one has the same hash: a memory-mapped file, (num_documents,).

    hashes: of the documents in order, (any number, 2) each; scratch: an empty directory.
    """
    # Reserved first: a disk that is full while a mapped file is written ends the process.
    with (scratch / "duplicates").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, num_documents))
    is_duplicate: npt.NDArray[np.bool_] = np.memmap(
        scratch / "duplicates", dtype=np.bool_, mode="r+", shape=(max(1, num_documents),)
    )
    num_files = 1
    while num_files * max_documents < num_documents and num_files < _MAX_FILES:
        num_files *= 2
    for path in _spread(hashes, num_files, scratch):
        rows = np.fromfile(path, dtype=_HASHED)
        path.unlink()
        order = np.lexsort((rows["hash"][:, 0], rows["hash"][:, 1]))  # stable: equal hashes stay in reading order
        ordered = rows["hash"][order]
        is_repeated = (ordered[1:] == ordered[:-1]).all(axis=1)
        is_duplicate[rows["number"][order[1:][is_repeated]]] = True
    return is_duplicate[:num_documents]


def _spread(hashes: Iterable[Hashes], num_files: int, scratch: Path) -> Iterator[Path]:
    paths = [scratch / f"hashes-{number:03d}" for number in range(num_files)]
    first = 0
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for part in hashes:
            rows = np.empty(len(part), dtype=_HASHED)
            rows["number"], rows["hash"] = np.arange(first, first + len(part)), part
            first += len(part)
            file_numbers = rows["hash"][:, 0] % np.uint64(num_files)
            for number, file in enumerate(files):
                chosen = rows if num_files == 1 else rows[file_numbers == number]
                file.write(chosen.tobytes())
    yield from paths
