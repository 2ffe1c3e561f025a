"""The SISA paper's own files, `final.pt`: a zip of a pickle and raw tensors.

Only the tensors are read, by torch's weights-only unpickler, which runs no code; the zip is looked at first.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.config.heads import attention_block_settings, rotation_settings
from sisa_scale.config.loading.load import resolve
from sisa_scale.config.loading.yaml_source import flatten_plain
from sisa_scale.config.run import to_plain
from sisa_scale.conversion.forms.official_layout import OfficialLayout
from sisa_scale.conversion.weights import (
    WEIGHTS_ALONE,
    Description,
    Weights,
    check_shapes,
    checked,
)
from sisa_scale.errors import CheckpointError, ConfigError
from sisa_scale.files import sha256_file
from sisa_scale.models.meta import meta_decoder, parameter_shapes

_MOST_PICKLE_BYTES = 64 << 20
_COMPILED = "_orig_mod."
_PUBLISHED_HEAD_WIDTH = 64
_KEPT_WIDE = "lambda_raw"


class OfficialWeights:
    """The model of a published file; its optimizer state is left."""

    optimizer_states = WEIGHTS_ALONE

    def __init__(self, path: Path) -> None:
        """Open the file; raises CheckpointError for anything that is not a published Transformer or SISA."""
        self.path = path
        saved = _load(path)
        tensors, self.saved_config = saved.get("model"), saved.get("config") or {}
        if not isinstance(tensors, dict) or not isinstance(self.saved_config, dict):
            raise _broken(path, "no state dict under 'model'", "the file holds model, step, tokens_seen and config")
        self._tensors = {str(name).removeprefix(_COMPILED): tensor for name, tensor in tensors.items()}
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                raise _broken(path, f"{name}, which is no dense tensor", "the state dict holds tensors alone")
        self.layout = self._find_layout()
        step, tokens = (saved.get(key) for key in ("step", "tokens_seen"))
        config = _run_config(path, self.layout, self.saved_config)
        self.description = Description(config, _count(step), _count(tokens), "not recorded", str(path))
        found = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        check_shapes(path, found, self.layout.shapes(), self.description.run.model)
        self.shapes = parameter_shapes(self.description.run)

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one of our parameters."""
        assert kind == WEIGHT
        shapes = self.layout.shapes()
        return self.layout.to_ours(
            name, lambda key: checked(self.path, key, self._tensors[key], shapes[key])
        ).contiguous()

    def _find_layout(self) -> OfficialLayout:
        def size(name: str, dimension: int) -> int:
            tensor = self._tensors.get(name)
            if tensor is None or tensor.dim() <= dimension:
                raise _broken(self.path, f"no {name}", "the layout is the paper's for a Transformer or SISA")
            return int(tensor.shape[dimension])

        is_sisa = "layers.0.lambda_raw" in self._tensors
        d_model = size("embed.weight", 1)
        guessed = max(1, d_model // _PUBLISHED_HEAD_WIDTH)
        num_heads = size("layers.0.lambda_raw", 0) if is_sisa else self.saved_config.get("n_head", guessed)
        if not isinstance(num_heads, int) or num_heads < 1 or d_model % num_heads:
            raise _broken(self.path, f"{num_heads} heads for width {d_model}", "heads divide the width")
        layers = {name.split(".")[1] for name in self._tensors if name.startswith("layers.")}
        layout = OfficialLayout(
            vocab_size=size("embed.weight", 0),
            d_model=d_model,
            num_heads=num_heads,
            num_layers=len(layers),
            d_ff=size("layers.0.ffn.w_gate.weight", 0),
            d_state=size("layers.0.W_B.weight", 0) // num_heads if is_sisa else 0,
        )
        said = {"d_model": layout.d_model, "n_layer": layout.num_layers, "n_head": num_heads}
        said |= {"vocab_size": layout.vocab_size}
        for key, value in said.items():
            if self.saved_config.get(key, value) != value:
                raise _broken(self.path, f"{key} {self.saved_config[key]} but tensors of {value}", "both agree")
        return layout


def write_official(path: Path, weights: Weights, advance: Callable[[int], None]) -> None:
    """Write the published layout: model, step, tokens_seen, config. The whole model is in memory meanwhile.

    Tensors are bfloat16 where all of them are exactly representable (lambda stays fp32, as in the published training
    code), and fp32 otherwise. Raises ConfigError for a model that the layout cannot hold.
    """
    run = weights.description.run
    layout, model = _layout_of(weights), run.model
    tensors = dict(layout.to_official(weights.read))
    is_exact = all(_is_bf16(tensor) for name, tensor in tensors.items() if not name.endswith(_KEPT_WIDE))
    state = {}
    for name in layout.shapes():
        is_narrow = is_exact and not name.endswith(_KEPT_WIDE)
        state[name] = tensors.pop(name).to(torch.bfloat16 if is_narrow else torch.float32, copy=True).contiguous()
        advance(state[name].numel() * 4)
    config = {
        "model_type": model.kind,
        "vocab_size": layout.vocab_size,
        "d_model": layout.d_model,
        "n_head": layout.num_heads,
        "n_layer": layout.num_layers,
        "max_seq_len": model.max_length_tokens,
        "lr": run.optimizer.learning_rate,
        **({"d_ff_reduced": layout.d_ff, "d_state": layout.d_state} if layout.d_state else {"d_ff": layout.d_ff}),
    }
    said = weights.description
    torch.save({"model": state, "step": said.step, "tokens_seen": said.tokens, "config": config}, path)


def _layout_of(weights: Weights) -> OfficialLayout:
    run = weights.description.run
    model, sisa = run.model, run.model.sisa
    if model.is_normalized:
        raise ConfigError.at(
            weights.description.origin,
            found="normalized queries and keys (model.qk_norm or model.sisa.normalize_importance)",
            allowed="the paper's layout holds models as published, which normalize neither",
            remedy="Convert to safetensors or huggingface, which hold every model.",
        )
    beyond = attention_block_settings(model) | rotation_settings(model)
    if beyond:
        raise ConfigError.at(
            weights.description.origin,
            found=", ".join(f"model.{key} {value}" for key, value in beyond.items()),
            allowed="the paper's layout holds keys for every query head, no window, no gate, whole heads rotated",
            remedy="Convert to safetensors or huggingface, which hold every model.",
        )
    is_published = sisa is None or (
        isinstance(sisa.d_s, int) and sisa.decay_kind == "data" and sisa.has_rotation and sisa.logit_scale == "none"
    )
    has_rope = model.rope_base == 10000.0 and model.rope is None and model.position == "rope"
    is_plain = has_rope and model.norm_epsilon == 1e-6
    if model.kind not in ("transformer", "sisa") or not model.d_ff or not is_published or not is_plain:
        raise ConfigError.at(
            weights.description.origin,
            found=f"a model of kind {model.kind}" + ("" if is_published and is_plain else " with other settings"),
            allowed="the paper's layout holds a Transformer or SISA with one d_s, decay, rotation and plain RoPE",
            remedy="Convert to safetensors or huggingface, which hold every model.",
        )
    if sisa is not None and meta_decoder(run).blocks[0].mixer.decay_limit != float("inf"):  # type: ignore[union-attr]
        raise ConfigError.at(
            weights.description.origin,
            found="the form single_call, which bounds the decay of a token",
            allowed="the published function has no such bound: it would be another model",
            remedy="Train with form published or query_blocks for that, or convert to safetensors or huggingface.",
        )
    d_s = sisa.d_s if sisa is not None and isinstance(sisa.d_s, int) else 0
    return OfficialLayout(model.vocab_size, model.d_model, model.num_heads, model.num_layers, model.d_ff, d_s)


def _is_bf16(tensor: Tensor) -> bool:
    return bool((tensor.bfloat16().float() == tensor).all())


def _load(path: Path) -> dict[str, Any]:
    _check_zip(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = f"a pickle that wants more than tensors ({str(error).splitlines()[0][:200]})"
        raise _broken(path, found, "only tensors and plain values are read; no code is run") from None
    except Exception as error:  # torch raises its own kinds for damaged archives
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise _broken(path, f"a damaged file ({text})", "a file that torch.save wrote") from None
    if not isinstance(saved, dict):
        raise _broken(path, f"a {type(saved).__name__}", "the file holds model, step, tokens_seen and config")
    return saved


def _check_zip(path: Path) -> None:
    """Refuse what torch.save never writes: compressed, overlapping or oversized members, and paths."""
    allowed = "torch.save stores its members whole and uncompressed"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FileNotFoundError:
        raise _broken(path, "no such file", allowed) from None
    except (zipfile.BadZipFile, OSError) as error:
        raise _broken(path, f"no zip archive ({error})", allowed) from None
    total = sum(member.file_size for member in members)
    if total > path.stat().st_size:
        raise _broken(path, f"members of {total} bytes in a file of {path.stat().st_size}", allowed)
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise _broken(path, f"the compressed member {member.filename!r}", allowed)
        if member.filename.startswith("/") or ".." in member.filename.split("/"):
            raise _broken(path, f"the member name {member.filename!r}", "names stay inside the archive")
        if member.filename.endswith(".pkl") and member.file_size > _MOST_PICKLE_BYTES:
            raise _broken(path, f"a pickle of {member.file_size} bytes", f"at most {_MOST_PICKLE_BYTES}")


def _run_config(path: Path, layout: OfficialLayout, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config: the model in its published form, and of the training what the file says."""
    length = saved.get("max_seq_len", 2048)
    sequences = _count(saved.get("micro_batch")) * _count(saved.get("grad_accum")) or 256
    total = _count(saved.get("max_tokens")) or 9536 * sequences * length
    model: dict[str, Any] = {
        "kind": "sisa" if layout.d_state else "transformer",
        "num_layers": layout.num_layers,
        "d_model": layout.d_model,
        "num_heads": layout.num_heads,
        "d_ff": layout.d_ff,
        "vocab_size": layout.vocab_size,
        "vocab_multiple": 1,
        "max_length_tokens": length,
    }
    if layout.d_state:
        model["sisa"] = {"d_s": layout.d_state, "form": "published"}
    plain = {
        "name": path.parent.name or path.stem,
        "description": f"Imported from {path.name}, SHA-256 {sha256_file(path)}, in the paper's layout.",
        "model": model,
        "data": {"path": "data", "sequence_tokens": length, "global_batch_tokens": sequences * length},
        "optimizer": {"learning_rate": float(saved.get("lr", 6e-4))},
        "schedule": {
            "kind": "cosine",
            "total": f"{total} tokens",
            "warmup": f"{_count(saved.get('warmup_steps'))} steps",
        },
        "execution": {"micro_batch_sequences": 1},
        "evaluation": {"needle_lengths": []},
    }
    return dict(to_plain(resolve(flatten_plain("", plain, str(path))).config))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _broken(path: Path, found: str, allowed: str) -> CheckpointError:
    return CheckpointError.at(path, found=found, allowed=allowed, remedy="Fetch the file again from its publisher.")
