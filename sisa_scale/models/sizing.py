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
    layers, width = model.num_layers, model.d_model
    mixers = [(model.spec(layer).family, model.spec(layer).parameters(model, layer)) for layer in range(layers)]

    def matrices(family: str) -> int:
        return sum(own.projections + own.taps for group, own in mixers if group == family)

    def vectors(family: str) -> int:
        return sum(own.vectors for group, own in mixers if group == family)

    norms_per_layer = 2 if model.d_ff else 1
    gains = 2 * model.head_width * model.num_head_layers if model.qk_norm_gain else 0
    return ParameterCounts(
        embedding=model.padded_vocab_size * width,
        attention=matrices("attention") + vectors("attention"),
        importance_matrices=sum(own.importance_matrices for _, own in mixers),
        importance_vectors=sum(own.importance_vectors for _, own in mixers),
        state_space_matrices=matrices("state_space"),
        state_space_vectors=vectors("state_space"),
        hybrid_matrices=matrices("hybrid"),
        hybrid_vectors=vectors("hybrid"),
        meta=model.hymba.meta_parameters(width) if model.hymba is not None else 0,
        mlp=layers * 3 * width * model.d_ff,
        norms=(norms_per_layer * layers + 1) * width + gains,
    )
