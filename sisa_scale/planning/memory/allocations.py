"""Follows what operations allocate, from the making of a storage until nothing refers to it."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sisa_scale.planning.memory.amounts import Amount, Held


class Allocations(TorchDispatchMode):
    """Counts live bytes and their peak; storages of the tensors `known` do not count."""

    def __init__(self, known: list[Tensor], sequences: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = Amount()
        self._sequences = sequences
        self._held: dict[int, Held] = {}
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in torch.utils._pytree.tree_leaves(results):
            if isinstance(result, Tensor):
                self._note(result)
        return results

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside. Collecting garbage looks at what was made since alone: torch's own objects take a second."""
        gc.freeze()
        try:
            with self:
                yield
        finally:
            gc.unfreeze()

    def held(self) -> tuple[Held, ...]:
        """Return what is live now."""
        gc.collect()
        return tuple(self._held.values())

    def restart(self) -> Amount:
        """Return the peak so far; the next begins with what is live now."""
        gc.collect()
        before, self.peak = self.peak, self.live
        return before

    def _note(self, result: Tensor) -> None:
        storage = result.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        amount, key = Amount.of(storage.nbytes(), self._sequences), id(storage)
        self._held[key] = Held("x".join(map(str, result.shape)), amount)
        self.live += amount
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._held.pop(key).amount
