"""Every architecture under ZeRO: partitioned or not, the same losses, and a resume that continues them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import metrics, start_workers

from sisa_scale.checkpoint.store import CheckpointStore

MAMBA2 = "model.mamba2={state_width: 16, head_width: 32, chunk_tokens: 32}"
MAMBA3 = "model.mamba3={state_width: 16, head_width: 32, chunk_tokens: 32}"
DELTANET = "model.gated_deltanet={key_width: 16, head_width: 32, expand: 2.0, heads_per_key: 2, chunk_tokens: 32}"
HYMBA = "state_width: 8, head_width: 32, chunk_tokens: 32, num_meta_tokens: 4}"
MODELS = {
    "transformer": ["model.kind=transformer", "model.sisa=null"],
    "mamba2": ["model.kind=mamba2", "model.sisa=null", MAMBA2],
    "mamba3": ["model.kind=mamba3", "model.sisa=null", MAMBA3],
    "gated_deltanet": ["model.kind=gated_deltanet", "model.sisa=null", DELTANET],
    "jamba": ["model.kind=jamba", "model.sisa=null", MAMBA2, "model.jamba={attention_every: 2, attention_offset: 1}"],
    "hymba": [
        "model.kind=hymba",
        "model.sisa=null",
        "model.hymba={num_kv_heads: 1, " + HYMBA,
    ],
    "hymba sisa": [
        "model.kind=hymba",
        "model.hymba={attention: sisa, num_kv_heads: 1, " + HYMBA,
    ],
    "forget gate": ["decay_kind=forget_gate", "has_rotation=false"],
    "channels": ["decay_kind=channels", "has_rotation=false", "model.position=none"],
    "query blocks": ["model.sisa.form=query_blocks", "block_tokens=32"],
    "sisa normalized": ["qk_norm=true", "qk_norm_gain=true", "normalize_importance=true"],
    "attention block": [
        "model.num_kv_heads=1",
        "model.window_tokens=[24, null]",
        "model.position=[rope, none]",
        "output_gate=per_head",
        "rope_fraction=0.5",
        "z_loss_weight=1e-3",
    ],
    "pattern": ["model.kind=pattern", "pattern=[mamba3, sisa]", MAMBA3],
}
ROUNDING_NATS = 2e-3


@pytest.fixture(scope="module")
def every_model(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[[Path], Path]) -> Path:
    root = tmp_path_factory.mktemp("models")
    recipe = write_recipe(root)
    jobs = [
        ("train", recipe, [f"run_dir={root}/{name}-{stage}", f"zero_stage={stage}", "total=7 steps", *overrides])
        for name, overrides in MODELS.items()
        for stage in (0, 1, 3)
    ]
    start_workers(2, jobs)
    return root


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stage", [1, 3])
def test_partitioning_changes_nothing(every_model: Path, name: str, stage: int) -> None:
    expected = [line["loss"] for line in metrics(every_model / f"{name}-0")]
    found = [line["loss"] for line in metrics(every_model / f"{name}-{stage}")]
    assert len(found) == 7
    assert found == pytest.approx(expected, abs=ROUNDING_NATS)


def test_every_model_resumes_under_another_stage(every_model: Path, tmp_path: Path) -> None:
    jobs = []
    for name, overrides in MODELS.items():
        shutil.copytree(every_model / f"{name}-3", tmp_path / name)
        shutil.rmtree(CheckpointStore(tmp_path / name).path(7))
        settings = [f"run_dir={tmp_path}/{name}", "zero_stage=1", "total=7 steps", *overrides]
        jobs.append(("train", every_model / "tiny.yaml", settings))
    start_workers(1, jobs)
    for name in MODELS:
        expected = [line["loss"] for line in metrics(every_model / f"{name}-3")]
        found = [line["loss"] for line in metrics(tmp_path / name)]
        assert found == pytest.approx(expected, abs=ROUNDING_NATS)
