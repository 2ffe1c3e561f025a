from pathlib import Path
from typing import Any, Literal

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.loading.strict import MismatchError, coerce
from sisa_scale.config.loading.yaml_source import parse_scalar
from sisa_scale.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("5e9", 5e9),
        ("1.5", 1.5),
        (".5", 0.5),
        ("524_288", 524288),
        ("-5", -5),
        ("007", 7),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("'7'", "7"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_scalars_are_read_as_they_look(text: str, value: Any) -> None:
    read = parse_scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (5e9, int, 5 * 10**9),
        (3, float, 3.0),
        (3e-4, float, 3e-4),
        (2, Literal["none", "full"] | int, 2),
        ("full", Literal["none", "full"] | int, "full"),
        (None, str | None, None),
        ([1, 2.0], tuple[int, ...], (1, 2)),
        ([], tuple[int, ...], ()),
        (False, bool, False),
    ],
)
def test_lossless_changes_alone_are_made(value: Any, hint: Any, result: Any) -> None:
    read = coerce(value, hint)
    assert read == result
    assert type(read) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "allowed"),
    [
        (1.5, int, "a whole number"),
        (float("inf"), int, "a whole number"),
        ("5", int, "a whole number"),
        (True, int, "a whole number"),
        (True, float, "a number"),
        (1, bool, "true or false"),
        ("true", bool, "true or false"),
        (7, str, "text"),
        (None, str, "text"),
        (True, Literal[0, 1], "one of 0, 1"),
        (1.0, Literal[0, 1], "one of 0, 1"),
        ("ful", Literal["none", "full"] | int, "one of none, full or must be a whole number"),
        (1.5, str | None, "text or must be null"),
        ("loss", tuple[str, ...], "a list"),
        ([1.5], tuple[int, ...], "a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, hint: Any, allowed: str) -> None:
    with pytest.raises(MismatchError, match=allowed):
        coerce(value, hint)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=0", "must be greater than 0"),
        ("beta2=1", "must be at most 0.99999"),
        ("num_layers=0", "must be at least 1"),
        ("needle_lengths=[64, 16]", "must be at least 32"),
        ("activation_checkpointing=0", "must be at least 1"),
        ("execution={zero_stage: 0, offload_optimizer: true}", "stages 1 to 3"),
        ("execution={compile_tuning: true}", "tunes what torch.compile makes"),
        ("execution={cuda_graphs: true}", "captures what torch.compile makes"),
        ("execution={compile: true, cuda_graphs: true, zero_stage: 3}", "weights at fixed addresses"),
        (
            "execution={compile: true, cuda_graphs: true, sequence_parallel_size: 2}",
            "with sequence_parallel",
        ),
        ("execution={precision: fp32, float8_products: true}", "takes the place of products in bf16"),
        ("decay_range_nats=161", "must be at most 160"),
        ("precision=bf61", "Did you mean 'bf16'"),
        ("schedule.total=100", "Write '100 steps' or '100 tokens'"),
        ("name=7", "must be text. Quote it"),
    ],
)
def test_values_out_of_bounds_say_what_is_allowed(base: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(base, [override])


@pytest.mark.parametrize("key", ["learning_rate", "gradient_clip_norm", "weight_decay"])
def test_infinity_is_no_number(base: Path, key: str) -> None:
    with pytest.raises(ConfigError):
        load_config(base, [f"{key}=1e999"])
