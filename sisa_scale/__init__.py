"""Distributed pretraining of SISA language models and their rivals."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sisa_scale.api import (
        TrainedModel,
        build_model,
        evaluate,
        fit_scaling_law,
        generate,
        load_checkpoint,
        load_recipe,
        open_run,
        resume,
        status,
        submit,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "TrainedModel",
    "build_model",
    "evaluate",
    "fit_scaling_law",
    "generate",
    "load_checkpoint",
    "load_recipe",
    "open_run",
    "resume",
    "status",
    "submit",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a name of the API on its first use, so that importing the package stays quick."""
    if name in __all__:
        return getattr(importlib.import_module("sisa_scale.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
