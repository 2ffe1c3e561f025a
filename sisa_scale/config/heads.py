"""Rules of the attention heads of section `model`: which settings go together, and which mixers have them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sisa_scale.config.fields import Violation

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig


def attention_block_settings(model: "ModelConfig") -> dict[str, str]:
    """Return what the attention block has beyond the Transformer's of 2017, by setting, as it stands in a recipe."""
    written = {
        "num_kv_heads": None if model.num_kv_heads == model.num_heads else model.num_kv_heads,
        "window_tokens": _plain(model.window_tokens),
        "output_gate": None if model.output_gate == "none" else model.output_gate,
    }
    return {key: str(value) for key, value in written.items() if value is not None}


def rotation_settings(model: "ModelConfig") -> dict[str, str]:
    """Return how positions differ from the rotation of whole heads, or of none, in every layer."""
    written = {
        "position": None if isinstance(model.position, str) else _plain(model.position),
        "rope_fraction": None if model.rope_fraction == 1.0 else model.rope_fraction,
    }
    return {key: str(value) for key, value in written.items() if value is not None}


def head_violations(model: "ModelConfig") -> Iterator[Violation]:
    """Rules of the heads of a model."""
    has_heads = any(spec.uses_heads for spec in model.specs)
    if has_heads and (model.num_heads == 0 or model.d_model % model.num_heads):
        yield Violation(
            "num_heads",
            str(model.num_heads),
            f"must divide d_model {model.d_model}",
            f"The nearest is {_nearest_divisor(model.d_model, model.num_heads)}.",
        )
    elif has_heads:
        yield from _width_violations(model)
    yield from _norm_violations(model)
    yield from _block_violations(model)
    yield from _position_violations(model)


def _width_violations(model: "ModelConfig") -> Iterator[Violation]:
    if not any(spec.uses_positions for spec in model.specs):
        return
    if model.head_width % 2:
        yield Violation(
            "num_heads",
            str(model.num_heads),
            f"head width {model.head_width} must be even to be rotated in pairs",
            "Choose another number of heads.",
        )
    elif model.rope_fraction > 0 and (
        model.rotary_width % 2 or model.rotary_width != model.rope_fraction * model.head_width
    ):
        pairs = model.head_width // 2
        nearest = max(1, round(model.rope_fraction * pairs)) / pairs
        yield Violation(
            "rope_fraction",
            f"{model.rope_fraction:g} of head width {model.head_width}",
            "channels are rotated in pairs, so that this is an even number of them",
            f"The nearest is {nearest:g}.",
        )


def _norm_violations(model: "ModelConfig") -> Iterator[Violation]:
    if not model.qk_norm:
        if model.qk_norm_gain:
            allowed, remedy = "the gain follows the norm", "Write qk_norm_gain: false, or qk_norm: true."
            yield Violation("qk_norm_gain", "true without qk_norm", allowed, remedy)
    elif not model.num_head_layers:
        yield Violation(
            "qk_norm", "true", f"kind {model.kind} has no attention heads to normalize", "Write qk_norm: false."
        )
    elif model.sisa is not None and model.sisa.form == "published":
        yield Violation(
            "qk_norm",
            "true with sisa.form published",
            "the published form has no norm of queries and keys",
            "Write qk_norm: false, or sisa.form: auto.",
        )


def _block_violations(model: "ModelConfig") -> Iterator[Violation]:
    """Grouped queries, windows and gates belong to the mixers `attention` and `sisa`."""
    if model.window_tokens == ():
        yield Violation("window_tokens", "[]", "a list names at least one layer", "Write null for no window.")
    neutral = {"num_kv_heads": "null", "window_tokens": "null", "output_gate": "none"}
    for key, value in attention_block_settings(model).items():
        if not any(spec.has_attention_block for spec in model.specs):
            own = model.hymba is not None and key != "output_gate"
            yield Violation(
                key,
                f"{value} with kind {model.kind}",
                f"the mixers attention and sisa have it, and no layer is one: {', '.join(sorted(set(model.mixers)))}",
                f"Write {key}: {neutral[key]}" + (f", and model.hymba.{key}." if own else "."),
            )
        elif model.sisa is not None and model.sisa.form == "published":
            yield Violation(
                key,
                f"{value} with sisa.form published",
                "the published form is the paper's: a key for every query head, no window, no gate",
                f"Write {key}: {neutral[key]}, or sisa.form: auto.",
            )
    if model.num_kv_heads and model.num_heads % model.num_kv_heads:
        yield Violation(
            "num_kv_heads",
            str(model.num_kv_heads),
            f"must divide num_heads {model.num_heads}",
            f"The nearest is {_nearest_divisor(model.num_heads, model.num_kv_heads)}.",
        )


def _position_violations(model: "ModelConfig") -> Iterator[Violation]:
    if model.position == ():
        yield Violation("position", "[]", "a list names at least one layer", "Write rope or none.")
        return
    has_positions = any(spec.uses_positions for spec in model.specs)
    for key, value in rotation_settings(model).items():
        if not has_positions or (key == "rope_fraction" and not any(model.is_rotated)):
            yield Violation(
                key,
                value,
                "no layer rotates its heads by position",
                "Write position: none." if key == "position" else "Write rope_fraction: 1.",
            )
        elif model.sisa is not None and model.sisa.form == "published":
            yield Violation(
                key,
                f"{value} with sisa.form published",
                "the published form rotates whole heads in every layer",
                f"Write {key}: {'rope' if key == 'position' else 1}, or sisa.form: auto.",
            )


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted), default=1)


def _plain(value: object) -> str | None:
    """Return a setting as it stands in YAML, None for null."""
    if isinstance(value, tuple):
        return f"[{', '.join(_plain(item) or 'null' for item in value)}]"
    return None if value is None else str(value)
