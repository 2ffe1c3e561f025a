"""What `data.documents: separate` goes with, and what it refuses."""

from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.errors import ConfigError

SEPARATE = "data.documents=separate"
HYMBA = ["model.kind=hymba", "model.sisa=null"]


def problems(base: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(base, [SEPARATE, *overrides])
    return str(caught.value).splitlines()


def test_documents_are_joined_unless_asked(base: Path) -> None:
    assert load_config(base, []).config.data.documents == "joined"
    assert load_config(base, [SEPARATE]).config.data.documents == "separate"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.sisa.form=published"], "the published form reads documents together"),
        ([*HYMBA, "model.hymba={num_meta_tokens: 4, head_width: 32}"], "begin after the meta tokens"),
        (["decay_range_nats=81"], "finite up to 80 nats"),
        (["attention_backend=flash_padded"], "there is none to choose"),
    ],
)
def test_what_cannot_be_read_apart(base: Path, overrides: list[str], message: str) -> None:
    (found,) = problems(base, *overrides)
    assert message in found
    load_config(base, overrides)  # fine with joined documents


@pytest.mark.parametrize(
    "overrides",
    [
        ["decay_range_nats=80"],
        ["model.sisa.form=query_blocks", "block_tokens=16"],
        [*HYMBA, "model.hymba={head_width: 32}"],
        ["model.kind=mamba2", "model.sisa=null", "model.mamba2={head_width: 32}", "attention_backend=flash"],
    ],
)
def test_what_can(base: Path, overrides: list[str]) -> None:
    load_config(base, [SEPARATE, *overrides])
