"""The public table that carries no licence, where it is at hand."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.table import RunTable

EPOCH_SHA256 = "193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30"


@pytest.fixture(scope="session")
def epoch_file() -> Path:
    """The points of Besiroglu et al., where they are at hand; see tests/golden/scaling/README.md."""
    directory = os.environ.get("SISA_SCALE_PUBLIC_DATA")
    path = Path(directory or ".") / "epoch_chinchilla_svg.csv"
    if directory is None or not path.is_file():
        pytest.skip("SISA_SCALE_PUBLIC_DATA names no directory with epoch_chinchilla_svg.csv, which carries no licence")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == EPOCH_SHA256
    return path


@pytest.fixture(scope="session")
def epoch_all(epoch_file: Path) -> RunTable:
    """All 245 points."""
    columns = {"params_scaling": "Model Size", "train_flops": "Training FLOP"}
    return load_table(epoch_file, columns=columns, tokens_from_flops=True)


@pytest.fixture(scope="session")
def epoch(epoch_all: RunTable) -> RunTable:
    """Without the five largest losses, in the order of the file."""
    return epoch_all.select(np.sort(np.argsort(epoch_all.losses)[:-5]))
