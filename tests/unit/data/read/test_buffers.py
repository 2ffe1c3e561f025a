import numpy as np
import torch

from sisa_scale.data.read.buffers import ArrayPool


def test_what_someone_holds_is_never_handed_out_again() -> None:
    pool = ArrayPool(8)
    held = [pool.take((4,), np.int64) for _ in range(3)]
    views = [held[0][1:], torch.from_numpy(held[1]), held[2].data]
    places = {array.ctypes.data for array in held}
    del held
    assert len({pool.take((4,), np.int64).ctypes.data for _ in range(5)} & places) == 0
    assert len(views) == 3


def test_what_nobody_holds_is_used_again() -> None:
    pool = ArrayPool(8)
    first = pool.take((4,), np.int64).ctypes.data
    assert pool.take((4,), np.int64).ctypes.data == first
    assert pool.take((5,), np.int64).shape == (5,)
    assert pool.take((4,), np.uint8).dtype == np.uint8
    tensor = torch.from_numpy(pool.take((4,), np.int64))[:2].view(2)
    assert pool.take((4,), np.int64).ctypes.data != first
    del tensor
    assert pool.take((4,), np.int64).ctypes.data == first


def test_it_remembers_so_many() -> None:
    pool = ArrayPool(2)
    held = [pool.take((4,), np.int64) for _ in range(5)]
    assert len({array.ctypes.data for array in held}) == 5
    assert len(pool._arrays) == 2
