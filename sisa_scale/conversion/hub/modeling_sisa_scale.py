"""A trained decoder as a causal language model of `transformers`.

Shapes: B batch, L length, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.conversion.hub.configuration_sisa_scale import SisaScaleConfig
from sisa_scale.models.decoder import Decoder, DecoderCache
from sisa_scale.models.kernels.sdpa import portable_backend


class SisaScaleCache(Cache):  # type: ignore[misc]
    """The decoder's own cache, which is exact for every mixer, in the shape that `generate` asks for."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.decoder: DecoderCache | None = None
        self.num_tokens = 0

    is_compileable = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the columns of input ids taken in so far, padding included."""
        return self.num_tokens

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """It grows."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows of a beam search, in their new order."""
        if self.decoder is not None:
            _take_rows(self.decoder, beam_idx, self.decoder.length_B.shape[0])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.decoder is not None:
            rows = torch.arange(self.decoder.length_B.shape[0], device=self.decoder.length_B.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def crop(self, *_: Any) -> None:
        """Recurrent states cannot go back: assisted decoding is refused."""
        raise ValueError("this cache cannot forget tokens, so assisted decoding is not possible")


class SisaScaleForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The decoder with tied embeddings. Positions follow from the attention mask; position_ids are not read."""

    config_class = SisaScaleConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _tied_weights_keys = {"model.head.weight": "model.embedding.weight"}  # noqa: RUF012 - transformers' own form
    _is_stateful = True

    def __init__(self, config: SisaScaleConfig) -> None:
        super().__init__(config)
        section = config.model_section()
        execution = ExecutionConfig(micro_batch_sequences=1, precision="bf16")
        backend = portable_backend("cpu", "fp32", is_augmented=section.sisa is not None)
        self.model = Decoder(section, execution, backend)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw all weights at once where there are none to load."""
        if isinstance(module, Decoder) and not any(p.is_meta for p in module.parameters()):
            missing = [p for p in module.parameters() if not getattr(p, "_is_hf_initialized", False)]
            if len(missing) == len(list(module.parameters())):
                module.initialise(0)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding, which the head shares."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding and with it the head's weight."""
        assert isinstance(value, nn.Embedding)
        self.model.embedding = value
        self.model.head.weight = nn.Parameter(value.weight)

    def get_output_embeddings(self) -> None:
        """The head has no module of its own."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: SisaScaleCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, of the last `logits_to_keep` positions or of all, and with labels the mean loss in nats.

        Padding stands before or after the tokens of a row, before them when there is a cache. Raises ValueError for
        other masks, for inputs beyond the model's longest sequence, and for another kind of cache.
        """
        self._choose_kernel()
        if past_key_values is None:
            logits = self._read_whole(input_ids, attention_mask, logits_to_keep)
        else:
            if not isinstance(past_key_values, SisaScaleCache):
                raise ValueError(f"past_key_values is a {type(past_key_values).__name__}, not a SisaScaleCache")
            logits = self._read_on(input_ids, attention_mask, past_key_values, logits_to_keep)
        loss = None
        if labels is not None:
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(logits.device))
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Any = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what the next call of forward takes: the columns that the cache has not seen."""
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        inputs = {"input_ids": input_ids[:, seen:], "attention_mask": attention_mask}
        return inputs | {"past_key_values": past_key_values, "logits_to_keep": kwargs.get("logits_to_keep", 1)}

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        if generation_config.cache_implementation is not None:
            raise ValueError("cache_implementation: this model has one kind of cache, its own")
        sisa = self.model.config.sisa
        is_cacheable = sisa is None or sisa.form != "published"  # there every new token changes all keys
        if is_cacheable and generation_config.use_cache is not False and "past_key_values" not in model_kwargs:
            model_kwargs["past_key_values"] = SisaScaleCache()

    def _choose_kernel(self) -> None:
        """Choose the attention kernel for where the weights are and what they are computed in."""
        weight = self.model.embedding.weight
        kind = weight.device.type
        is_half = torch.is_autocast_enabled(kind) or weight.dtype != torch.float32
        is_augmented = self.model.config.sisa is not None
        backend = portable_backend(kind, "bf16" if is_half else "fp32", is_augmented=is_augmented)
        for module in self.model.modules():
            if hasattr(module, "backend"):
                setattr(module, "backend", backend)  # noqa: B010 - of modules of several classes

    def _read_on(self, tokens_BL: Tensor, mask: Tensor | None, cache: SisaScaleCache, keep: int) -> Tensor:
        """Return logits (B, L or keep, V) of tokens after those in the cache."""
        length = tokens_BL.shape[1]
        is_token_BL = None if mask is None else mask[:, -length:].bool()
        if is_token_BL is not None:
            if (is_token_BL[:, :-1] & ~is_token_BL[:, 1:]).any():
                raise ValueError("padding stands before the tokens of a row: set tokenizer.padding_side = 'left'")
            if not is_token_BL[:, -1].all():
                raise ValueError("a row without a token has nothing to continue")
            if is_token_BL.all():
                is_token_BL = None
        if cache.decoder is None:
            cache.decoder = self.model.new_cache(tokens_BL.shape[0])
        cache.num_tokens += length
        if keep == 1 or length == 1:
            return self.model.extend(tokens_BL, cache.decoder, is_token_BL)[:, None]
        steps = [
            self.model.extend(
                tokens_BL[:, at : at + 1],
                cache.decoder,
                None if is_token_BL is None else is_token_BL[:, at : at + 1],
            )
            for at in range(length)
        ]
        return torch.stack(steps[-keep:] if keep else steps, dim=1)

    def _read_whole(self, tokens_BL: Tensor, mask: Tensor | None, keep: int) -> Tensor:
        """Return logits (B, L or keep, V) without a cache; padding is not read, and has logits of 0."""
        if mask is None or bool(mask.all()):
            return self.model.head.logits(self.model.hidden(tokens_BL)[:, -keep:])
        logits_BLV = torch.zeros(*tokens_BL.shape, self.model.config.vocab_size, device=tokens_BL.device)
        for row, is_token_L in enumerate(mask.bool()):
            places = is_token_L.nonzero()[:, 0]
            if len(places) and int(places[-1] - places[0]) + 1 != len(places):
                raise ValueError("padding stands before or after the tokens of a row, not between them")
            if len(places):
                read = self.model.head.logits(self.model.hidden(tokens_BL[row : row + 1, is_token_L]))[0]
                logits_BLV = logits_BLV.to(read.dtype).index_put((torch.tensor(row), places), read)
        return logits_BLV[:, -keep:]


def _take_rows(value: Any, rows: Tensor, batch: int) -> None:
    """Reorder every tensor of a cache along its first dimension, in place, whatever mixer it belongs to."""
    for name in _attributes(value):
        inner = getattr(value, name)
        if isinstance(inner, Tensor):
            if inner.shape[0] == batch:
                setattr(value, name, inner.index_select(0, rows.to(inner.device)))
        elif isinstance(inner, list):
            for item in inner:
                _take_rows(item, rows, batch)
        elif hasattr(inner, "__slots__") or hasattr(inner, "__dict__"):
            _take_rows(inner, rows, batch)


def _attributes(value: Any) -> list[str]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(value, "__dict__", {})]
