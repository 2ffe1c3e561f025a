"""Which rows of fused projections are whose: against what the modules do with their results."""

import pytest
import torch
from zoo import TINY, decoder, tiny

from sisa_scale.models.mixers.hymba import Hymba
from sisa_scale.models.mixers.mamba2 import Mamba2
from sisa_scale.models.mixers.mamba3 import Mamba3
from sisa_scale.models.mixers.sisa import Sisa
from sisa_scale.models.row_parts import RowPart, row_parts

FUSED = ("mixer.project.weight", "mixer.qkv.weight", "mlp.gate_up.weight")


@pytest.mark.parametrize("name", TINY)
def test_parts_are_all_rows_of_every_fused_weight_once(name: str) -> None:
    model = decoder(tiny(name))
    parts, weights = row_parts(model), dict(model.named_parameters())
    assert set(parts) == {key for key in weights if key.endswith(FUSED)}
    for key, found in parts.items():
        marks = torch.zeros_like(weights[key])
        for part in found.values():
            part.of(marks).add_(1.0)
        assert (marks == 1).all(), key


def test_parts_of_sisa_are_what_its_heads_read() -> None:
    model = decoder(tiny("sisa"))
    mixer = model.blocks[0].mixer
    assert isinstance(mixer, Sisa)
    parts, width = row_parts(model)["blocks.0.mixer.project.weight"], mixer.head_width
    q, k, v, decay, phase, _ = mixer.project.rows()
    q_HCD, k_HCD = q.unflatten(0, (2, -1)), k.unflatten(0, (2, -1))
    expected = {"q": q_HCD[:, :width], "C": q_HCD[:, width:], "k": k_HCD[:, :width], "B": k_HCD[:, width:]}
    expected |= {"v": v[None], "decay": decay[None], "phase": phase[None]}
    assert parts.keys() == expected.keys()
    assert all(torch.equal(part.of(mixer.project.weight), expected[name]) for name, part in parts.items())


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("mamba2", Mamba2, {"z": 128, "x": 128, "keys": 16, "queries": 16, "dt": 4}),
        (
            "mamba3 mimo",
            Mamba3,
            {"z": 128, "x": 128, "keys": 32, "queries": 32, "dt": 4, "rate": 4, "trapezoid": 4, "angle": 4},
        ),
        (
            "hymba",
            Hymba,
            {"q": 64, "k": 32, "v": 64, "z": 128, "x": 128, "keys": 8, "queries": 8, "dt": 4},
        ),
    ],
)
def test_parts_of_state_space_mixers(name: str, kind: type, expected: dict[str, int]) -> None:
    model = decoder(tiny(name))
    assert isinstance(model.blocks[0].mixer, kind)
    parts = row_parts(model)["blocks.0.mixer.project.weight"]
    assert {key: part.stop - part.start for key, part in parts.items()} == expected
    starts = [part.start for part in parts.values()]
    assert starts == sorted(starts)


def test_a_part_is_a_view() -> None:
    weight = torch.zeros(6, 2)
    RowPart(0, 6, heads=2, low=1).of(weight).fill_(1.0)
    assert weight[:, 0].tolist() == [0, 1, 1, 0, 1, 1]
