"""How often SISA calls attention in a layer: once, or once for every block of queries, which is slower."""

import math
from dataclasses import dataclass

from sisa_scale.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class AttentionCalls:
    """The form that computes SISA's layers at a length, the calls of one, and why it is not a single one."""

    form: str
    calls: int
    why: str | None


def attention_calls(model: ModelConfig, sequence_tokens: int) -> AttentionCalls | None:
    """Return how SISA is computed, None for a model without its importance term."""
    sisa = model.sisa
    if sisa is None or not model.has_importance:
        return None
    form, trained = sisa.form_at(model.num_positions, model.trained_positions), model.trained_positions
    if form != "query_blocks":
        return AttentionCalls(form, 1, None)
    calls = -(-(sequence_tokens + model.num_meta_tokens) // sisa.queries_per_call(trained))
    if sisa.trained_form(trained) == "single_call":
        return AttentionCalls(form, calls, f"the bound of the decay holds over trained_length_tokens {trained}")
    if sisa.form == "query_blocks":
        return AttentionCalls(form, calls, "form query_blocks: the decay has no bound")
    bias = math.log(math.expm1(sisa.decay_range_nats / trained))
    return AttentionCalls(
        form,
        calls,
        f"form auto: the initial decay would use up {sisa.decay_range_nats:g} nats before {trained} tokens; for one "
        f"call decay_bias_init below {bias:.2f}, or a larger decay_range_nats (160 at most)",
    )
