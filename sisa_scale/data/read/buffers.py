"""Memory that is used again: fresh pages cost a loader more than what it copies into them."""

import sys
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

_UNUSED_REFERENCES = 3  # the list of the pool, the loop over it, and the call that counts


class ArrayPool:
    """Hands out arrays, and hands one out again when nobody holds it or a view of it any longer.

    Views, memoryviews and torch tensors over an array all hold it, so what is in use is never overwritten. At most
    `max_arrays` are remembered; what is not is freed like any array. May be used from several threads.
    """

    def __init__(self, max_arrays: int) -> None:
        self._max_arrays = max_arrays
        self._arrays: list[npt.NDArray[Any]] = []
        self._lock = RLock()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array with undefined content."""
        with self._lock:
            for array in self._arrays:
                if sys.getrefcount(array) == _UNUSED_REFERENCES and array.shape == shape and array.dtype == dtype:
                    return array
            array = np.empty(shape, dtype)
            self._arrays.append(array)
            del self._arrays[: -self._max_arrays]
            return array
