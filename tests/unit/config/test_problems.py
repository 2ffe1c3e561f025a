from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.errors import ConfigError

Write = Callable[[str, str], Path]
MAMBA2 = ["model.kind=mamba2", "model.sisa=null", "model.mamba2={head_width: 32}"]
HYMBA = ["model.kind=hymba", "model.sisa=null", "model.hymba={head_width: 32}"]


def problems(recipe: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_every_missing_key_is_listed(write: Write) -> None:
    found = problems(write("own.yaml", "name: x\nmodel: {kind: sisa}"))
    missing = {line.split(":")[0].removeprefix("recipe ") for line in found}
    assert missing == {
        *(f"model.{key}" for key in ("num_layers", "d_model", "d_ff", "vocab_size", "max_length_tokens")),
        *(f"data.{key}" for key in ("sequence_tokens", "global_batch_tokens")),
        *("optimizer.learning_rate", "schedule.kind", "schedule.total", "execution.micro_batch_sequences"),
    }


def test_problems_of_all_kinds_are_listed_at_once(base: Path, write: Write) -> None:
    own = write(
        "own.yaml",
        "extends: base.yaml\nsed: 1\nmodel: {num_heads: 3, d_ff: 1.5}\noptimizer: {beta1: 2}\nschedule: {total: 7}\n",
    )
    found = problems(own, "precision=half")
    assert len(found) == 5
    assert any(line.startswith(f"{own}:2 sed: found an unknown key") and "'seed'" in line for line in found)
    assert any(line.startswith(f"{own}:3 model.d_ff: found 1.5") for line in found)
    assert any("override 'precision=half' execution.precision" in line for line in found)


def test_rules_between_sections_are_listed_at_once(base: Path) -> None:
    found = problems(
        base, "workers=3", "sequence_tokens=128", "needle_lengths=[32, 512]", "schedule.total=4 steps", "warmup=5 steps"
    )
    starts = [f"{base}:16 data.global_batch_tokens", "override 'sequence_tokens=128' data.sequence_tokens"]
    starts += ["override 'needle_lengths=[32, 512]' evaluation.needle_lengths", "override 'warmup=5 steps' schedule"]
    assert len(found) == 4
    for start, line in zip(starts, found, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["global_batch_tokens=500"], "must be a multiple of data.sequence_tokens 64. The nearest is 512"),
        (["workers=3"], "the nearest global_batch_tokens is 384"),
        (["num_heads=5"], "must divide d_model 32. The nearest is 4"),
        (["num_heads=32"], "head width 1 must be even"),
        (["d_s=17"], "d_s is even. Write 18"),
        (["model.kind=transformer"], "Write model.sisa: null"),
        (["model.sisa=null"], "kind sisa needs a section model.sisa"),
        (["num_heads=0"], "must divide d_model 32"),
        (["model.kind=pattern", "model.sisa=null"], "needs a list model.pattern"),
        (["model.kind=pattern", "model.pattern=[sisa, attention, sisa]"], "must divide num_layers"),
        (["model.kind=pattern", "model.pattern=[sisa, mamba2]"], "needs a section model.mamba2"),
        (["decay_bias_init=2", "sisa.form=single_call"], "must exceed the initial one"),
        (["normalize_importance=true", "sisa.form=published"], "the published form normalizes nothing"),
        (["normalize_importance=true", "decay_kind=alibi", "has_rotation=false"], "no importance channels to rotate,"),
        (["qk_norm=true", "sisa.form=published"], "the published form has no norm"),
        (["qk_norm_gain=true"], "the gain follows the norm"),
        (["qk_norm=true", *MAMBA2], "no attention heads"),
        (["model.num_kv_heads=0"], "must be at least 1"),
        (["num_heads=4", "model.num_kv_heads=3"], "must divide num_heads 4. The nearest is 2"),
        (["model.num_kv_heads=4"], "must divide num_heads 2. The nearest is 2"),
        (["model.num_kv_heads=1", *MAMBA2], "Write num_kv_heads: null."),
        (["model.num_kv_heads=1", *HYMBA], "Write num_kv_heads: null, and model.hymba.num_kv_heads."),
        (["model.num_kv_heads=1", "sisa.form=published"], "num_kv_heads: null, or sisa.form: auto"),
        (["model.window_tokens=0"], "must be at least 1"),
        (["model.window_tokens=[8, 0]"], "must be at least 1"),
        (["model.window_tokens=[]"], "a list names at least one layer"),
        (["model.window_tokens=8", *MAMBA2], "Write window_tokens: null."),
        (["model.window_tokens=8", "sisa.form=published"], "no window"),
        (["model.window_tokens=8", "sisa.activation=sigmoid"], "windows take softmax"),
        (["model.window_tokens=[8, null]", "decay_range_nats=160"], "masked attention is not finite"),
        (["output_gate=both"], "must be one of none, per_head, per_channel"),
        (["output_gate=per_head", *MAMBA2], "Write output_gate: none."),
        (["output_gate=per_head", *HYMBA], "Write output_gate: none."),
        (["output_gate=per_head", "sisa.form=published"], "no gate"),
        (["model.position=[]"], "a list names at least one layer"),
        (["model.position=[rope, none]", *MAMBA2], "no layer rotates its heads"),
        (["model.position=[rope, none]", "sisa.form=published"], "in every layer"),
        (["rope_fraction=0"], "must be greater than 0"),
        (["rope_fraction=0.3"], "The nearest is 0.25"),
        (["rope_fraction=0.5", "model.position=none"], "Write rope_fraction: 1."),
        (["rope_fraction=0.5", "sisa.form=published"], "rotates whole heads"),
        (["z_loss_weight=-1"], "must be at least 0"),
        (["schedule.total=511 tokens"], "at least one step of 512 tokens"),
        (["warmup=101 steps"], "must fit into the total of 100 steps"),
        (["schedule.kind=wsd", "warmup=60 steps", "decay=60 steps"], "60 steps of warm-up and 60 of decay"),
        (["ray_address=''"], "an address or null"),
    ],
)
def test_rules(base: Path, overrides: list[str], message: str) -> None:
    (found,) = problems(base, *overrides)
    assert message in found


@pytest.mark.parametrize(
    "overrides",
    [
        ["global_batch_tokens=512 "],
        ["workers=4", "micro_batch_sequences=2"],
        ["warmup=100 steps", "decay=100 steps"],
        ["schedule.total=512 tokens"],
        ["needle_lengths=[]"],
        ["model.kind=transformer", "model.sisa=null"],
        ["qk_norm=true", "qk_norm_gain=true", "normalize_importance=true"],
        [
            "model.num_kv_heads=1",
            "model.window_tokens=[8, null]",
            "output_gate=per_head",
            "rope_fraction=0.25",
            "z_loss_weight=1e-4",
        ],
        ["model.position=[rope, none]", "model.num_kv_heads=2", "model.window_tokens=1", "output_gate=per_channel"],
        ["rope_fraction=0.5", *HYMBA],
        ["model.num_kv_heads=2", "sisa.form=published"],
    ],
)
def test_limits_are_inside(base: Path, overrides: list[str]) -> None:
    load_config(base, overrides)


def test_derived_numbers(base: Path) -> None:
    config = load_config(base, ["workers=2", "schedule.total=5119 tokens", "vocab_multiple=64"]).config
    assert (config.data.global_batch_sequences, config.accumulation_steps, config.total_steps) == (8, 2, 9)
    assert (config.model.head_width, config.model.padded_vocab_size) == (16, 64)
    assert str(config.directory) == "runs/small"
    assert str(load_config(base, ["run_dir=x/y"]).config.directory) == "x/y"


def test_absurd_decays_are_refused(base: Path) -> None:
    problems(base, "decay_bias_init=1000", "sisa.form=single_call")


def test_math_kernel_is_refused_beyond_its_range(base: Path) -> None:
    load_config(base, ["attention_backend=math", "decay_range_nats=80"])
    (found,) = problems(base, "attention_backend=math", "decay_range_nats=160")
    assert "finite up to 80 nats" in found


def test_the_best_checkpoints_are_chosen_among_steps_that_are_known_to_be_saved(base: Path) -> None:
    best = ["keep_best=1", "evaluation.tasks=[loss]", "evaluation.every_steps=2", "total=12 steps"]
    by_clock = [*best, "checkpoint.every_steps=0", "checkpoint.every_seconds=600"]
    (found,) = problems(base, *by_clock)
    assert "which steps every_seconds saves is not known" in found
    assert "Write a checkpoint.every_steps that 2 divides, or keep_best 0." in found
    for remedy in ("checkpoint.every_steps=4", "keep_best=0"):
        assert load_config(base, [*by_clock, remedy]).config.checkpoint.every_seconds == 600
