"""Which document each token of a sequence belongs to.

Shapes: B sequences, M = L + 1 stored tokens of a sequence, L its targets.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

IGNORED_TARGET = -100


def number_documents(tokens_BM: npt.NDArray[Any], eos_id: int) -> npt.NDArray[np.int32]:
    """Return the number of each token's document within its sequence, from 0: int32, (B, M).

    The end-of-document token belongs to the document that it ends.
    """
    numbers_BM = np.zeros(tokens_BM.shape, dtype=np.int32)
    np.cumsum(tokens_BM[:, :-1] == eos_id, axis=1, out=numbers_BM[:, 1:])
    return numbers_BM


def separate_targets(
    tokens_BM: npt.NDArray[Any], targets_BL: npt.NDArray[np.int64], eos_id: int
) -> npt.NDArray[np.int32]:
    """Set to -100, in place, the targets that lie in another document than their token; return document_BL."""
    targets_BL[tokens_BM[:, :-1] == eos_id] = IGNORED_TARGET
    return np.ascontiguousarray(number_documents(tokens_BM, eos_id)[:, :-1])
