"""Section `model.sisa`: the importance term inside the attention score."""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.mixers.attention import block_rows, block_work
from sisa_scale.config.mixers.spec import AttentionWork, Measured, MixerParameters, MixerSpec, MixerWork

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig

Form = Literal["single_call", "query_blocks", "published"]
BIAS_CHANNELS = 8  # of forget_gate and alibi: three pieces of g on either side, padded to a multiple of 8


@dataclass(frozen=True, kw_only=True, slots=True)
class SisaConfig:
    """The importance term of SISA (paper 2606.02332; symbols as there), and the controls that take parts of it away."""

    d_s: int | tuple[int, ...] = setting(
        "importance channels per head, an even number; a list gives every layer its own", minimum=2
    )
    form: Literal["auto", "single_call", "query_blocks", "published"] = setting(
        "how the decay is computed. single_call: bounded per token, one attention call. query_blocks: unbounded, one "
        "call per block. published: the authors' clamp, not causal, for their checkpoints only. auto: single_call "
        "where its range suffices, else query_blocks. Beyond trained_length_tokens single_call keeps its bound and is "
        "computed by blocks",
        default="auto",
    )
    decay_range_nats: float = setting(
        "largest total log-decay over trained_length_tokens; bounds the per-token decay at range/length so that a "
        "constant anchor stays exact and finite. query_blocks has no bound and does not read it",
        default=80.0,
        above=0.0,
        maximum=160.0,
    )
    block_tokens: int = setting(
        "queries per attention call of query_blocks; single_call by blocks has as many as trained_length_tokens",
        default=128,
        minimum=1,
    )
    decay_kind: Literal["data", "none", "forget_gate", "alibi", "channels"] = setting(
        "data: SISA's decay of the importance logit; none: no decay; forget_gate (2503.02130) and alibi (2108.12409): "
        "a penalty on the content logit instead of the importance term, learned from the data or fixed; channels: a "
        "learned decay of every channel of the content logit, instead of the importance term and of positions",
        default="data",
    )
    has_rotation: bool = setting("whether importance channels are rotated by learned phases", default=True)
    logit_scale: Literal["none", "sqrt_d_s"] = setting(
        "sqrt_d_s divides importance logits by sqrt(d_s), so that d_s does not set their size", default="none"
    )
    normalize_importance: bool = setting(
        "RMS norm of each head's importance channels C and B, before rotation, decay and lambda: without it they grow, "
        "and training diverges at learning rates at which a Transformer's does not",
        default=False,
    )
    activation: Literal["softmax", "sigmoid"] = setting(
        "what turns logits into weights; sigmoid (2409.04431) leaves the fused attention call", default="softmax"
    )
    decay_bias_init: float = setting("initial decay bias b_alpha", default=-5.0)
    lambda_raw_init: float = setting("initial lambda before softplus", default=-1.0)
    phase_init_std: float = setting(
        "standard deviation of the phase projection at initialisation", default=0.01, above=0
    )

    @property
    def has_importance(self) -> bool:
        """Whether there are importance channels; the other kinds act on the content logit instead."""
        return self.decay_kind in ("data", "none")

    @property
    def has_learned_decay(self) -> bool:
        """Whether the decay is a projection of the input."""
        return self.decay_kind in ("data", "forget_gate", "channels")

    @property
    def is_within_logit(self) -> bool:
        """Whether the decay is a factor inside the logit, which an anchor and a bound keep finite."""
        return self.decay_kind in ("data", "channels")

    def decay_channels(self, head_width: int) -> int:
        """Return the decays that a head has for every token."""
        return head_width if self.decay_kind == "channels" else int(self.has_learned_decay)

    def d_s_of(self, layer: int) -> int:
        """Return d_s of a layer."""
        return self.d_s if isinstance(self.d_s, int) else self.d_s[layer]

    def extra_channels(self, layer: int) -> int:
        """Return how many channels queries and keys of a layer have beyond the content's."""
        if self.decay_kind == "channels":
            return 0
        return self.d_s_of(layer) if self.has_importance else BIAS_CHANNELS

    def trained_form(self, trained_length_tokens: int) -> Form:
        """Return the form that fixes the function, `auto` decided by the length that is first trained."""
        if self.form != "auto":
            return self.form
        exceeds = self.decay_kind == "data" and self._exceeds_range(trained_length_tokens)
        return "query_blocks" if exceeds else "single_call"

    def form_at(self, max_length_tokens: int, trained_length_tokens: int) -> Form:
        """Return the form that computes it: a longer sequence than its bound was made for takes single_call to blocks.

        The decay keeps the bound of the trained length, so this is the same function of any tokens.
        """
        form = self.trained_form(trained_length_tokens)
        is_outgrown = max_length_tokens > trained_length_tokens and self.is_within_logit
        return "query_blocks" if form == "single_call" and is_outgrown else form

    def is_unbounded(self, trained_length_tokens: int) -> bool:
        """Return whether a token may decay by any number of nats, in every form that computes it."""
        return self.trained_form(trained_length_tokens) == "query_blocks"

    def queries_per_call(self, trained_length_tokens: int) -> int:
        """Return the block of query_blocks.

        A bounded decay needs no shorter block than the length that its bound was made for: one anchor holds it.
        """
        is_bounded = self.trained_form(trained_length_tokens) == "single_call"
        return trained_length_tokens if is_bounded else min(self.block_tokens, trained_length_tokens)

    def decay_limit(self, trained_length_tokens: int) -> float:
        """Return the bound of a token's decay in nats, infinite without one."""
        is_bounded = self.is_within_logit and self.trained_form(trained_length_tokens) == "single_call"
        return self.decay_range_nats / trained_length_tokens if is_bounded else math.inf

    def layer_parameters(
        self, d_model: int, num_heads: int, layer: int, num_kv_heads: int | None = None
    ) -> tuple[int, int]:
        """Return the weights that a layer has more than one without SISA: in matrices, and in vectors.

        d H d_s (C) + d G d_s (B) + d G d_s / 2 (phase) + d G (decay), and H (lambda) + G (decay bias), less what is
        absent. G heads of keys and values; without a number, H. Decays of channels count d_h times.
        """
        groups = num_heads if num_kv_heads is None else num_kv_heads
        decays = self.decay_channels(d_model // num_heads)
        per_group = decays
        if self.has_importance:
            d_s = self.d_s_of(layer)
            per_group += d_s + (d_s // 2 if self.has_rotation else 0)
        per_head = self.d_s_of(layer) if self.has_importance else 0
        vectors = num_heads * self.has_importance + groups * decays
        return d_model * (num_heads * per_head + groups * per_group), vectors

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        for d_s in (self.d_s,) if isinstance(self.d_s, int) else self.d_s:
            if d_s % 2:
                yield Violation("d_s", str(d_s), "channels are rotated in pairs, so d_s is even", f"Write {d_s + 1}.")
        if self.form in ("query_blocks", "published") and self.decay_kind != "data":
            yield Violation(
                "form",
                f"{self.form} with decay_kind {self.decay_kind}",
                "only decay_kind data has forms to choose from",
                "Write auto.",
            )
        if not self.has_importance:
            needed = {"has_rotation": False, "logit_scale": "none", "normalize_importance": False}
            for key, value in needed.items():
                if getattr(self, key) != value:
                    yield Violation(
                        key,
                        f"{str(getattr(self, key)).lower()} with decay_kind {self.decay_kind}",
                        "there are no importance channels to rotate, scale or normalize",
                        f"Write {key}: {str(value).lower()}.",
                    )
        if self.form == "published" and not (
            self.has_rotation and self.logit_scale == "none" and self.activation == "softmax"
        ):
            yield Violation(
                "form",
                "published with a control",
                "the published form has rotation, softmax and no logit scale",
                "Write auto, or leave has_rotation, logit_scale and activation at their defaults.",
            )
        if self.form == "published" and self.normalize_importance:
            yield Violation(
                "normalize_importance",
                "true with form published",
                "the published form normalizes nothing",
                "Write normalize_importance: false, or form: auto.",
            )

    def layer_violations(self, num_layers: int) -> Iterator[Violation]:
        """Rules between the section and the number of layers."""
        if isinstance(self.d_s, tuple) and len(self.d_s) != num_layers:
            yield Violation(
                "sisa.d_s",
                f"{len(self.d_s)} numbers",
                f"one per layer, so {num_layers} of them",
                "Give every layer its d_s, or one number for all.",
            )

    def length_violations(self, trained_length_tokens: int) -> Iterator[Violation]:
        """Rules between the section and the first training's longest sequence: one anchor must hold the decay."""
        if not self.is_within_logit or self.trained_form(trained_length_tokens) != "single_call":
            return
        if self._exceeds_range(trained_length_tokens):
            largest = self.decay_range_nats / trained_length_tokens
            or_blocks = ", shorten the length, or write form: query_blocks."
            yield Violation(
                "sisa.decay_range_nats",
                f"{self.decay_range_nats} nats over {trained_length_tokens} tokens",
                f"the largest decay per token, {largest:.2g}, must exceed the initial one, {self._initial_decay():.2g}",
                "Lower model.sisa.decay_bias_init, raise decay_range_nats (to 160 at most)"
                + (or_blocks if self.decay_kind == "data" else ", or shorten the length."),
            )

    def window_violations(self) -> Iterator[Violation]:
        """Rules of the section where layers have windows, which are masks."""
        found = "with model.window_tokens"
        if self.activation == "sigmoid":
            yield Violation("sisa.activation", f"sigmoid {found}", "windows take softmax", "Write softmax.")
        if self.decay_kind == "data" and self.decay_range_nats > 80:
            yield Violation(
                "sisa.decay_range_nats",
                f"{self.decay_range_nats} {found}",
                "at most 80: masked attention is not finite beyond that on every device",
                "Write 80.",
            )

    def _exceeds_range(self, tokens: int) -> bool:
        return self._initial_decay() >= self.decay_range_nats / tokens

    def _initial_decay(self) -> float:
        bias = self.decay_bias_init
        return max(bias, 0.0) + math.log1p(math.exp(-abs(bias)))  # softplus


class SisaSpec(MixerSpec):
    """Attention with the importance term, all of it from one padded projection."""

    name, module, settings = "sisa", "sisa_scale.models.mixers.sisa:Sisa", SisaConfig
    family = "attention"
    uses_heads = has_attention_block = uses_positions = uses_sdpa = takes_mask = True
    # In 16 calls a layer, of 128 queries each, it ran at 0.111 where one call had 0.257 (one H200).
    measured = Measured(0.356, several_calls=0.111 / 0.257, selective_share=0.099, normalized=0.954)

    def has_importance(self, model: "ModelConfig") -> bool:
        """It is the term."""
        return True

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        section: SisaConfig = self.section(model)
        matrices, vectors = section.layer_parameters(model.d_model, model.num_heads, layer, model.kv_heads)
        content = model.d_model * (block_rows(model) + model.d_model)
        return MixerParameters(content, importance_matrices=matrices, importance_vectors=vectors)

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        matrices = self.parameters(model, layer).importance_matrices
        return MixerWork(
            attention=augmented_work(block_work(model, layer), model, layer),
            prefix_sum_channels=summed_channels(model, model.kv_heads, layer),
            padded_projection=block_rows(model) + matrices // model.d_model,
        )

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return its heads."""
        return {"model.num_heads": model.num_heads}

    def variant(self, model: "ModelConfig", layer: int) -> Hashable:
        """Layers may differ in d_s and in their window."""
        section: SisaConfig = self.section(model)
        return section.d_s_of(layer), model.window_of(layer)

    def violations(self, model: "ModelConfig") -> Iterator[Violation]:
        """Rules between the section and the lengths and layers of the model."""
        section: SisaConfig = self.section(model)
        if section.decay_kind == "channels" and (self.name, True) in zip(model.mixers, model.is_rotated, strict=True):
            yield Violation(
                "position",
                "rope with sisa.decay_kind channels",
                "two channels that are rotated as a pair decay apart, and their logit would depend on where both stand",
                "Write position: none; the decays tell near from far.",
            )
        yield from section.length_violations(model.trained_positions)
        yield from section.layer_violations(model.num_layers)
        if model.window_tokens is not None:
            yield from section.window_violations()


def augmented_work(work: AttentionWork, model: "ModelConfig", layer: int) -> AttentionWork:
    """Return the work of heads with the importance term in their keys."""
    sisa = model.sisa
    assert sisa is not None
    is_by_blocks = sisa.form_at(model.num_positions, model.trained_positions) == "query_blocks"
    return replace(
        work,
        importance_width=sisa.extra_channels(layer),
        is_banded=work.is_banded and not is_by_blocks,
        queries_per_call=sisa.queries_per_call(model.trained_positions) if is_by_blocks else None,
        is_sigmoid=sisa.activation == "sigmoid",
        has_unbounded_decay=is_by_blocks and sisa.is_unbounded(model.trained_positions),
    )


def summed_channels(model: "ModelConfig", groups: int, layer: int) -> int:
    """Return the channels of decay and phases that are summed over the length, of so many heads of keys."""
    sisa = model.sisa
    assert sisa is not None
    if sisa.decay_kind == "channels":
        return groups * model.head_width
    is_rotated = sisa.has_importance and sisa.has_rotation
    return groups * (1 + (sisa.d_s_of(layer) // 2 if is_rotated else 0))
