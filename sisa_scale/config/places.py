"""Tables that others may add to: things named by their place, and packages that bring some of their own.

A place is `package.module:name`. It is imported when it is first asked for, so a table of places costs nothing.
"""

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any

ENTRY_POINTS = "sisa_scale.extensions"


def imported(place: str) -> Any:
    """Return what stands at a place."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module, __package__), name)


@cache
def load_extensions() -> None:
    """Import every installed module that the entry points `sisa_scale.extensions` name, once in a process.

    On import such a module registers what it brings. So every process of a run, on every machine, knows the same names.
    """
    if __name__ != "sisa_scale.config.places":
        return  # a copy in an exported model, which has the package's own mixers alone
    for entry_point in entry_points(group=ENTRY_POINTS):
        entry_point.load()
