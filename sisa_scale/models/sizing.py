"""Parameters of a model by group, by arithmetic alone."""

from dataclasses import asdict, dataclass

from sisa_scale.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Trainable parameters by group. The head is tied to the embedding and adds none."""

    embedding: int
    attention: int
    importance_matrices: int
    importance_vectors: int
    state_space_matrices: int
    state_space_vectors: int
    hybrid_matrices: int
    hybrid_vectors: int
    meta: int
    mlp: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters, the embedding's padding rows included."""
        return sum(asdict(self).values())

    @property
    def nonembedding(self) -> int:
        """All parameters but the embedding."""
        return self.total - self.embedding


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Return the parameters of a model by group."""
    layers, width, mixers = model.num_layers, model.d_model, model.mixers
    num_attention = sum(mixer in ("attention", "sisa") for mixer in mixers)
    importance = [
        model.sisa.layer_parameters(width, model.num_heads, layer, model.kv_heads(mixer))
        for layer, mixer in enumerate(mixers)
        if model.sisa is not None and model.has_importance(mixer)
    ]
    hybrid = model.hymba.layer_parameters(width, model.num_heads) if model.hymba is not None else (0, 0)
    state_space = [_mamba2(model) if mixer == "mamba2" else _mamba3(model) for mixer in mixers if "mamba" in mixer]
    norms_per_layer = 2 if model.d_ff else 1
    gains = 2 * model.head_width * model.num_head_layers if model.qk_norm_gain else 0
    return ParameterCounts(
        embedding=model.padded_vocab_size * width,
        attention=num_attention * 4 * width * width,
        importance_matrices=sum(matrices for matrices, _ in importance),
        importance_vectors=sum(vectors for _, vectors in importance),
        state_space_matrices=sum(matrices for matrices, _ in state_space),
        state_space_vectors=sum(vectors for _, vectors in state_space),
        hybrid_matrices=mixers.count("hymba") * hybrid[0],
        hybrid_vectors=mixers.count("hymba") * hybrid[1],
        meta=model.hymba.meta_parameters(width) if model.hymba is not None else 0,
        mlp=layers * 3 * width * model.d_ff,
        norms=(norms_per_layer * layers + 1) * width + gains,
    )


def projection_rows(model: ModelConfig, layer: int) -> int:
    """Return the rows of the weight with which the mixer of a layer projects its input."""
    width, mixer = model.d_model, model.mixers[layer]
    rows = 0
    if model.sisa is not None and model.has_importance(mixer):
        rows += model.sisa.layer_parameters(width, model.num_heads, layer, model.kv_heads(mixer))[0] // width
    if mixer in ("attention", "sisa"):
        return rows + 3 * width
    if mixer == "mamba2":
        return rows + _mamba2_rows(model)
    if mixer == "mamba3":
        return rows + _mamba3_rows(model)
    section = model.hymba
    assert section is not None
    inner = section.inner_width(width)
    convolution = section.conv_kernel * (inner + 2 * section.state_width)
    return rows + (section.layer_parameters(width, model.num_heads)[0] - convolution) // width - inner


def _mamba2_rows(model: ModelConfig) -> int:
    section = model.mamba2
    assert section is not None
    return 2 * section.inner_width(model.d_model) + 2 * section.state_width + section.num_heads(model.d_model)


def _mamba3_rows(model: ModelConfig) -> int:
    section = model.mamba3
    assert section is not None
    inner, state = section.inner_width(model.d_model), section.mimo_rank * section.state_width
    return 2 * inner + 2 * state + 3 * section.num_heads(model.d_model) + section.num_angles


def _mamba2(model: ModelConfig) -> tuple[int, int]:
    """Return matrices (in- and out-projection, convolution) and vectors of a Mamba-2 mixer."""
    section = model.mamba2
    assert section is not None
    inner, heads, state = section.inner_width(model.d_model), section.num_heads(model.d_model), section.state_width
    channels = inner + 2 * state
    projections = model.d_model * (_mamba2_rows(model) + inner)
    return projections + section.conv_kernel * channels, channels + 3 * heads + inner


def _mamba3(model: ModelConfig) -> tuple[int, int]:
    """Return matrices (in- and out-projection) and vectors of a Mamba-3 mixer of any rank."""
    section = model.mamba3
    assert section is not None
    inner, heads, rank = section.inner_width(model.d_model), section.num_heads(model.d_model), section.mimo_rank
    state = rank * section.state_width
    matrices = model.d_model * (_mamba3_rows(model) + inner)
    vectors = 2 * heads + 2 * heads * state + 2 * section.state_width + (3 * rank * inner if rank > 1 else 0)
    return matrices, vectors
