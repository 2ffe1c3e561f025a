"""How many bytes a compiled graph holds at a time, when elementwise work is fused and never stored.

The rule: results of matrix products, attention kernels and scatters are stored, and so are reductions, results that
one of those reads, and outputs of the graph. Everything else is computed where it is read. A stored result lives until
the last stored result that is computed from it. This is how inductor works in the main; its exceptions (a result that
many read is stored, loops are joined and reordered) are not followed.
"""

from typing import Any

import torch
from torch import Tensor

from sisa_scale.compat.torch import storage_key
from sisa_scale.planning.memory.amounts import Amount, Held

_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_scaled_mm")
_PARTS_OF_OTHER_EXTERNS = ("attention", "scatter", "index_put", "convolution", "sort")


def graph_memory(
    forward: torch.fx.GraphModule, backward: torch.fx.GraphModule, sequences: int
) -> tuple[tuple[Held, ...], Amount, Amount, Amount]:
    """Return what a partitioned graph holds, of that its (first) result, and the peaks of both passes.

    As in `tracing.PartMemory`.
    """
    given = {_key(node) for node in forward.graph.nodes if node.op == "placeholder" and _is_tensor(node)}
    outputs = forward.graph.output_node().all_input_nodes  # in the order of the results
    tensors = {_key(node): node for node in reversed(outputs) if _is_tensor(node) and _key(node) not in given}
    held = tuple(Held(f"{n.name} {tuple(n.meta['val'].shape)}", _bytes(n, sequences)) for n in tensors.values())
    outside = {node.name for node in outputs if _is_tensor(node) and _key(node) in given}
    result = _bytes(outputs[0], sequences)
    # The result lives on as the next block's input, but the backward graph need not read it.
    lives_on = Amount() if any(node.name == outputs[0].name for node in backward.graph.nodes) else result
    forward_peak = _peak(forward, sequences, outside=None)
    return held, result, forward_peak, _peak(backward, sequences, outside) + lives_on


def _peak(graph: torch.fx.GraphModule, sequences: int, outside: set[str] | None) -> Amount:
    """Return the most bytes that live at once; inputs count, but those named in `outside` (None: all of them)."""
    nodes = list(graph.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    reads: dict[torch.fx.Node, frozenset[int]] = {}
    size: dict[int, Amount] = {}
    born: dict[int, int] = {}
    dies: dict[int, int] = {}
    for node in nodes:
        sources = frozenset().union(*(reads[n] for n in node.all_input_nodes if n in reads))
        if node.op == "output":
            for key in sources:
                dies[key] = len(nodes)
            continue
        if not _is_stored(node):
            reads[node] = sources
            continue
        if node.op == "placeholder":
            is_outside = outside is None or node.name in outside
        else:
            is_outside = False
            for key in sources:
                dies[key] = place[node]
        keys = {} if is_outside else _parts(node, sequences)
        for key, amount in keys.items():
            if key not in size:
                size[key], born[key] = amount, -1 if node.op == "placeholder" else place[node]
                dies.setdefault(key, place[node])
        reads[node] = frozenset(keys)
    live = peak = Amount()
    changes: dict[int, list[Amount]] = {}
    ends: dict[int, list[Amount]] = {}
    for key, amount in size.items():
        changes.setdefault(born[key], []).append(amount)
        ends.setdefault(dies[key], []).append(amount)
    for moment in range(-1, len(nodes) + 1):
        live = sum(changes.get(moment, []), live)
        peak = max(peak, live)
        for amount in ends.get(moment, []):
            live -= amount
    return peak


def _is_stored(node: torch.fx.Node) -> bool:
    if node.op == "placeholder":
        return True
    if node.op != "call_function" or _is_view(node) or not _values(node):
        return False
    if _is_extern(node) or torch.Tag.reduction in getattr(node.target, "tags", ()):
        return True
    return any(_is_extern(user) or user.op == "output" for user in _readers(node))


def _readers(node: torch.fx.Node) -> list[torch.fx.Node]:
    """Return who reads a result, seen through views."""
    readers: list[torch.fx.Node] = []
    for user in node.users:
        readers += _readers(user) if _is_view(user) else [user]
    return readers


def _is_extern(node: torch.fx.Node) -> bool:
    name = str(node.target).removeprefix("aten.").split(".")[0]
    is_other = any(part in name for part in _PARTS_OF_OTHER_EXTERNS)
    return node.op == "call_function" and (name in _PRODUCTS or is_other)


def _is_view(node: torch.fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return not _is_extern(node.args[0]) if isinstance(node.args[0], torch.fx.Node) else True  # getitem
    values, inputs = _values(node), node.all_input_nodes
    return bool(values) and any(_is_tensor(source) and _key(source) == _storage(values[0]) for source in inputs)


def _parts(node: torch.fx.Node, sequences: int) -> dict[int, Amount]:
    return {_storage(v): Amount.of(v.untyped_storage().nbytes(), sequences) for v in _values(node)}


def _values(node: torch.fx.Node) -> list[Tensor]:
    value: Any = node.meta.get("val")
    return [v for v in (value if isinstance(value, tuple | list) else [value]) if isinstance(v, Tensor)]


def _is_tensor(node: torch.fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _key(node: torch.fx.Node) -> int:
    return _storage(node.meta["val"])


def _storage(value: Tensor) -> int:
    return storage_key(value)


def _bytes(node: torch.fx.Node, sequences: int) -> Amount:
    return Amount.of(node.meta["val"].untyped_storage().nbytes(), sequences)
