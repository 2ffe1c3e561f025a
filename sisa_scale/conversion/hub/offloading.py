"""Weights that `accelerate` keeps elsewhere: on a disk, in the memory of the host, on other devices.

Its hooks bring the weights of a module, and move what it is given to their device, around `forward` alone. Here they do
so around the other methods of a model that read weights, too.
"""

from functools import partial
from typing import Any

from torch import nn

_METHODS = ("hidden", "extend_hidden", "extend", "content", "logits")


def run_under_hooks(model: nn.Module) -> None:
    """Have every module that carries a hook run it around its methods; a second call changes nothing."""
    for module in model.modules():
        if hasattr(module, "_hf_hook"):
            for name in _METHODS:
                if hasattr(type(module), name) and name not in vars(module):
                    setattr(module, name, partial(_hooked, module, name))


def _hooked(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    hook: Any = module._hf_hook
    args, kwargs = hook.pre_forward(module, *args, **kwargs)
    return hook.post_forward(module, getattr(type(module), name)(module, *args, **kwargs))
