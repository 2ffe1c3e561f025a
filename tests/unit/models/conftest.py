import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.mixers.sisa import Sisa

WIDTHS: dict[str, Any] = {"num_layers": 2, "d_model": 32, "num_heads": 2, "d_ff": 48, "vocab_size": 50}
BuildDecoder = Callable[..., Decoder]


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """What a test compiled for its shapes would be compiled anew, for any shape, in the next with others."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def build_decoder() -> BuildDecoder:
    """Make a small initialised decoder; settings of any section may be given by name."""

    def build(
        kind: str = "sisa",
        *,
        backend: str = "math",
        d_s: int = 16,
        decay_range_nats: float = 80.0,
        activation_checkpointing: str | int = "none",
        loss_chunk_tokens: int = 4096,
        **model: Any,
    ) -> Decoder:
        sisa = SisaConfig(d_s=d_s, decay_range_nats=decay_range_nats) if kind == "sisa" else None
        config = ModelConfig(
            **{"kind": kind, "sisa": sisa, "max_length_tokens": 64, "vocab_multiple": 1, **WIDTHS, **model}
        )
        execution = ExecutionConfig(
            micro_batch_sequences=1,
            activation_checkpointing=activation_checkpointing,
            loss_chunk_tokens=loss_chunk_tokens,
        )
        decoder = Decoder(config, execution, backend)
        decoder.initialise(0)
        return decoder

    return build


@pytest.fixture
def set_range() -> Callable[[Sisa, float, int], None]:
    """Give every head of a mixer about this total decay over a length, whatever its input."""

    def set_range(mixer: Sisa, nats: float, length: int) -> None:
        limit = mixer.decay_limit
        step = torch.tensor(min(nats / length / limit, 0.999)).double()
        with torch.no_grad():
            mixer.project.rows()[3].mul_(0.1)
            mixer.decay_bias.fill_(torch.log(torch.expm1(limit * torch.atanh(step))))

    return set_range


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 50, (2, 65))
