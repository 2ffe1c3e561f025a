"""A trained decoder as a causal language model of `transformers`.

Shapes: B batch, L length, D width, V vocabulary.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.conversion.hub.arguments import check_known, check_positions
from sisa_scale.conversion.hub.cache_sisa_scale import SisaScaleCache
from sisa_scale.conversion.hub.configuration_sisa_scale import SisaScaleConfig
from sisa_scale.conversion.hub.offloading import run_under_hooks
from sisa_scale.conversion.hub.reading import is_causal, read_on, read_whole
from sisa_scale.models.block import Block
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.sdpa import portable_backend

_OLD_CACHE = "past_key_values"  # what transformers called it before 5.24
_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else _OLD_CACHE
_LOSS_KEYWORDS = ("num_items_in_batch", "ignore_index", "shift_labels")

# By this name `Trainer` knows that the labels of its label smoothing are one token ahead.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[SisaScaleConfig.model_type] = "SisaScaleForCausalLM"


class SisaScaleForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The decoder with tied embeddings."""

    config_class = SisaScaleConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    _tied_weights_keys = {"model.head.weight": "model.embedding.weight"}  # noqa: RUF012 - transformers' own form
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = [_CACHE]  # noqa: RUF012
    _is_stateful = True

    def __init__(self, config: SisaScaleConfig) -> None:
        super().__init__(config)
        self.model = _decoder(config)
        self.post_init()

    def initialize_weights(self) -> None:
        """Draw all weights that have not been loaded, as a run does; `torch.manual_seed` chooses them."""
        missing = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if not parameter.is_meta and not getattr(parameter, "_is_hf_initialized", False)
        }
        if missing:
            with torch.device("cpu"):
                fresh = _decoder(self.config)
                fresh.initialise(int(torch.randint(2**62, ())))
            with torch.no_grad():
                for name, parameter in missing.items():
                    parameter.copy_(fresh.get_parameter(name))

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights of an embedding that transformers puts in the place of ours."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.model.config.init_std)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding, which the head shares."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding and with it the head's weight."""
        assert isinstance(value, nn.Embedding)
        assert isinstance(value.weight, nn.Parameter)
        self.model.embedding, self.model.head.weight = value, value.weight

    def get_output_embeddings(self) -> None:
        """The head has no module of its own."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Give the vocabulary another size; the embedding may have more rows, whose ids get no logit.

        Raises ValueError where the weights are offloaded.
        """
        embedding, section = self.model.embedding, self.config.model_section()
        if new_num_tokens is None and pad_to_multiple_of is None:
            return embedding
        if embedding.weight.is_meta:
            raise ValueError("the embedding is offloaded: load the model without device_map, then resize it")
        wanted = section.vocab_size if new_num_tokens is None else new_num_tokens
        wanted += -wanted % (pad_to_multiple_of or 1)
        resized = dataclasses.replace(section, vocab_size=wanted)
        # Rows beyond the vocabulary were never trained; what the new ones are drawn from does not hold them.
        embedding.weight.data = embedding.weight.data[: section.vocab_size].clone()
        super().resize_token_embeddings(resized.padded_vocab_size, None, mean_resizing)
        self.config.resize(wanted)
        self.model.config, self.model.head.vocab_size = resized, wanted
        return self.model.embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: SisaScaleCache | None = None,
        inputs_embeds: None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: SisaScaleCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits (of the last `logits_to_keep` positions, of those it lists, or of all), with labels the loss.

        The loss is the model's `loss_function`: the mean in nats over the targets of the batch, or their sum over
        `num_items_in_batch`. use_cache: return a cache that the next call takes. Hidden states are the input of every
        block and what the head reads.

        Padding stands before or after the tokens of a row, before them when there is a cache. Raises ValueError for
        other masks, for positions that do not follow from the mask, for float16, for inputs beyond the model's longest
        sequence, for another kind of cache, and for what this model does not have.
        """
        loss_kwargs = {name: kwargs.pop(name) for name in _LOSS_KEYWORDS if name in kwargs}
        check_known({"inputs_embeds": inputs_embeds, **kwargs})
        if input_ids is None:
            raise ValueError("input_ids are missing")
        if cache is None:
            cache = past_key_values
        if cache is None and (use_cache if use_cache is not None else getattr(self.config, "use_cache", False)):
            cache = SisaScaleCache()
        if not isinstance(cache, SisaScaleCache | None):
            raise ValueError(f"the cache is a {type(cache).__name__}, not a SisaScaleCache")
        check_positions(position_ids, attention_mask, cache.num_tokens if cache is not None else 0)
        if hasattr(self, "_hf_hook"):
            run_under_hooks(self.model)
        self._choose_kernel(input_ids.device.type)

        has_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = self._states(input_ids, attention_mask, cache, has_states)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.head.logits(states[-1][:, kept])
        loss = None
        if labels is not None or loss_kwargs.get("shift_labels") is not None:
            if logits.shape[1] != input_ids.shape[1]:
                raise ValueError("the loss reads the logits of all positions: leave logits_to_keep out")
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **loss_kwargs)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=tuple(states) if has_states else None, **{_CACHE: cache}
        )
        is_dict = self.config.return_dict if return_dict is None else return_dict
        return output if is_dict else output.to_tuple()

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        if generation_config.cache_implementation is not None:
            raise ValueError("cache_implementation: this model has one kind of cache, its own")
        if not is_causal(self.model):  # there every new token changes all keys
            generation_config.use_cache = model_kwargs["use_cache"] = False
        elif generation_config.use_cache is not False and model_kwargs.get(_CACHE) is None:
            model_kwargs[_CACHE] = SisaScaleCache()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        for layer, block in enumerate(self.model.blocks):
            is_chosen = enable and layer % every_n_layers == 0
            assert isinstance(block, Block)
            block.recomputation = gradient_checkpointing_func if is_chosen else "none"
        self.gradient_checkpointing = enable

    def _choose_kernel(self, kind: str) -> None:
        """Choose the attention kernel for where the inputs are and what is computed in; raises ValueError for fp16."""
        dtype = self.model.embedding.weight.dtype
        is_autocast = torch.is_autocast_enabled(kind)
        if torch.float16 in (dtype, torch.get_autocast_dtype(kind) if is_autocast else dtype):
            raise ValueError(
                "float16 holds numbers up to 65504, which this model's exponentials exceed: load it with "
                "dtype=torch.bfloat16 or torch.float32, or compute under torch.autocast in bfloat16"
            )
        precision = "fp32" if dtype == torch.float32 and not is_autocast else "bf16"
        backend = portable_backend(kind, precision, is_augmented=self.model.config.sisa is not None)
        for module in self.model.modules():
            if hasattr(module, "backend"):
                setattr(module, "backend", backend)  # noqa: B010 - of modules of several classes

    def _states(
        self, tokens_BL: Tensor, mask: Tensor | None, cache: SisaScaleCache | None, has_states: bool
    ) -> list[Tensor]:
        """Return what the head reads, last, and with has_states what every block does, before it."""
        if cache is None:
            return read_whole(self.model, tokens_BL, mask, has_states)
        is_differentiated = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if cache.num_tokens == 0 and (has_states or is_differentiated):
            states = read_whole(self.model, tokens_BL, mask, has_states)
            read_on(self.model, tokens_BL, mask, cache)
            return states
        if has_states:
            raise ValueError("with a cache there are no hidden states: give use_cache=False")
        if is_differentiated and self.training:
            raise ValueError("no gradient reaches the tokens of a cache: train on whole sequences")
        return [read_on(self.model, tokens_BL, mask, cache)]


def _decoder(config: SisaScaleConfig) -> Decoder:
    section = config.model_section()
    execution = ExecutionConfig(micro_batch_sequences=1, precision="bf16")
    return Decoder(section, execution, portable_backend("cpu", "fp32", is_augmented=section.sisa is not None))
