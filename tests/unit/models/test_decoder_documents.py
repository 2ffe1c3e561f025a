"""Packed documents: every model reads each as if it stood alone. Shapes: B sequences, L length, D width."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import TINY, decoder, tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.prefix_sum import BLOCK_TOKENS, prefix_sum
from sisa_scale.models.kernels.ssd import TokenWeights, ssd

LENGTH = 160
# A document of one token, documents shorter than the convolution, ends at edges of chunks (8, 64, 128), one long one.
ROWS = [[1, 2, 5, 17, 39, 60, 36], [3, 5, 56, 64, 32]]
CONTROLS: dict[str, dict[str, Any]] = {
    "query blocks": {"form": "query_blocks", "block_tokens": 32},
    "forget gate": {"decay_kind": "forget_gate", "has_rotation": False},
    "alibi": {"decay_kind": "alibi", "has_rotation": False},
    "sigmoid": {"activation": "sigmoid"},
}


def without_meta(config: ModelConfig) -> ModelConfig:
    if config.hymba is None:
        return config
    return dataclasses.replace(config, hymba=dataclasses.replace(config.hymba, num_meta_tokens=0))


CONFIGS = {name: without_meta(tiny(name)) for name in TINY}
CONFIGS |= {name: dataclasses.replace(tiny("sisa"), sisa=SisaConfig(d_s=16, **s)) for name, s in CONTROLS.items()}
CONFIGS["channels"] = dataclasses.replace(
    tiny("sisa"), position="none", sisa=SisaConfig(d_s=16, decay_kind="channels", has_rotation=False)
)
CONFIGS["hymba sisa blocks"] = dataclasses.replace(
    CONFIGS["hymba sisa"], sisa=dataclasses.replace(tiny("hymba sisa").sisa, **CONTROLS["query blocks"])
)
CONFIGS["no position"] = dataclasses.replace(tiny("transformer"), position="none")


def with_chunks(config: ModelConfig, chunk_tokens: int) -> ModelConfig:
    sections = {name: getattr(config, name) for name in ("mamba2", "mamba3", "hymba")}
    changed = {name: dataclasses.replace(s, chunk_tokens=chunk_tokens) for name, s in sections.items() if s is not None}
    return dataclasses.replace(config, **changed)


def lively(config: ModelConfig) -> Decoder:
    """A model whose every path matters: larger weights than at initialisation, in float64."""
    model = decoder(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embedding" not in name:
                parameter.mul_(3)
    return model


def numbers(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return document_BL for documents of these lengths."""
    return torch.stack(
        [torch.repeat_interleave(torch.arange(len(row), dtype=torch.int32), torch.tensor(row)) for row in rows]
    )


def alone(model: Decoder, tokens_BL: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the hidden states of every document run by itself, side by side again."""
    return torch.stack(
        [
            torch.cat([model.hidden(document[None])[0] for document in tokens_L.split(list(row))])
            for tokens_L, row in zip(tokens_BL, rows, strict=True)
        ]
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_packed_documents_are_read_as_each_alone(name: str, dtype: torch.dtype) -> None:
    model = lively(CONFIGS[name]).to(dtype)
    tokens = torch.randint(0, 100, (2, LENGTH))
    with torch.no_grad():
        expected, packed = alone(model, tokens, ROWS), model.hidden(tokens, numbers(ROWS))
        joined = model.hidden(tokens)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(packed, expected, rtol=0, atol=tolerance)
    assert (joined - expected).abs().amax(-1)[:, 3:].median() > 1e-3  # the probe has something to find


@pytest.mark.parametrize("name", ["mamba2", "mamba3", "mamba3 mimo", "jamba", "hymba"])
@pytest.mark.parametrize("chunk_tokens", [1, 5, 8, 16, 256])
def test_any_chunk_length(name: str, chunk_tokens: int) -> None:
    model = lively(with_chunks(CONFIGS[name], chunk_tokens))
    tokens = torch.randint(0, 100, (2, LENGTH))
    with torch.no_grad():
        packed, expected = model.hidden(tokens, numbers(ROWS)), alone(model, tokens, ROWS)
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_gradient_comes_from_other_documents(name: str) -> None:
    model, tokens, row = lively(CONFIGS[name]).float(), torch.randint(0, 100, (1, LENGTH)), [3, 40, 53, 64]
    embedded = model.embedding(tokens).detach().requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    hidden = model.hidden(tokens, numbers([row]))
    handle.remove()
    third = slice(43, 96)
    out = hidden[:, third]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), embedded)
    assert gradient[:, third].abs().amax(-1).min() > 1e-6
    assert (gradient[:, 96:] == 0).all()
    assert (gradient[:, :43] == 0).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_one_document_is_what_it_is_without_numbers(name: str) -> None:
    model, tokens = lively(CONFIGS[name]), torch.randint(0, 100, (2, 70))
    with torch.no_grad():
        expected, found = model.hidden(tokens), model.hidden(tokens, numbers([[70], [70]]) + 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["transformer", "sisa", "mamba2", "mamba3 mimo", "hymba", "query blocks"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_loss_and_gradients_are_the_weighted_means_over_documents(name: str, recompute: str) -> None:
    execution = ExecutionConfig(
        micro_batch_sequences=1, precision="fp32", activation_checkpointing=recompute, loss_chunk_tokens=50
    )
    model = Decoder(CONFIGS[name], execution, "math").double()
    model.initialise(0)
    tokens = torch.randint(0, 100, (2, LENGTH))
    targets = torch.randint(0, 100, (2, LENGTH))
    for targets_L, row in zip(targets, ROWS, strict=True):
        targets_L[torch.tensor(row).cumsum(0) - 1] = -100

    loss = model(tokens, targets, document_BL=numbers(ROWS))
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    sums, count = [], 0
    for tokens_L, targets_L, row in zip(tokens, targets, ROWS, strict=True):
        for t, y in zip(tokens_L.split(row), targets_L.split(row), strict=True):
            if len(t) > 1:
                sums.append(model(t[None, :-1], y[None, :-1]) * (len(t) - 1))
                count += len(t) - 1
    expected = torch.stack(sums).sum() / count
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["transformer", "sisa", "query blocks", "mamba2", "mamba3", "hymba"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_blocks_compile_into_one_graph(name: str, recompute: str) -> None:
    tokens, targets, document = (
        torch.randint(0, 100, (2, 64)),
        torch.randint(0, 100, (2, 64)),
        numbers([[64], [20, 44]]),
    )
    execution = ExecutionConfig(micro_batch_sequences=2, precision="fp32", activation_checkpointing=recompute)
    gradients = []
    torch.compiler.reset()
    for is_compiled in (False, True):
        model = Decoder(dataclasses.replace(CONFIGS[name], num_layers=2), execution, "math")
        model.initialise(0)
        for block in model.blocks if is_compiled else ():
            block.compile(backend="aot_eager", fullgraph=True)
        model(tokens, targets, document_BL=document).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sisa", "mamba2", "mamba3", "hymba"])
def test_bf16_is_as_near_as_it_can_be(name: str) -> None:
    model, tokens, document = decoder(CONFIGS[name]), torch.randint(0, 100, (2, LENGTH)), numbers(ROWS)
    model.compute_dtype = torch.bfloat16
    with torch.no_grad():
        wide = model.hidden(tokens, document)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model.hidden(tokens, document)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - wide).norm() < 0.03 * wide.norm()


@pytest.mark.parametrize("nats", [1.0, 80.0])
def test_sisa_stays_finite_and_right_at_the_limit_of_its_range(nats: float) -> None:
    model, tokens = decoder(tiny("sisa")), torch.randint(0, 100, (2, LENGTH))
    with torch.no_grad():
        for block in model.blocks:
            assert isinstance(block.mixer.decay_bias, nn.Parameter)
            block.mixer.decay_bias.fill_(nats)  # every token decays by as much as the form allows
            for rows in block.mixer.project.rows()[:3]:
                rows.mul_(3)
        expected = alone(model.double(), tokens, ROWS)
    found = model.float().hidden(tokens, numbers(ROWS))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_blocks_of_queries_bear_any_decay_before_a_document() -> None:
    config = dataclasses.replace(tiny("sisa"), sisa=SisaConfig(d_s=16, **CONTROLS["query blocks"]))
    model, tokens, row = decoder(config), torch.randint(0, 100, (1, LENGTH)), [100, 60]
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.decay_bias.fill_(2.0)  # 213 nats before the second document, which begins inside a block
        expected, found = alone(model, tokens, [row]), model.hidden(tokens, numbers([row]))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_meta_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="meta tokens"):
        decoder(tiny("hymba")).hidden(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.int32))


def test_sums_within_documents() -> None:
    row = [1, 2, 5, BLOCK_TOKENS - 8, 3, 2 * BLOCK_TOKENS + 30, BLOCK_TOKENS - 33, 9]
    x = torch.randn(1, sum(row), 3).double()
    expected = torch.cat([part.cumsum(1) for part in x.split(row, 1)], 1)
    torch.testing.assert_close(prefix_sum(x, numbers([row])), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 8, 64])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_state_after_documents_is_that_of_the_last(chunk_tokens: int, is_weighted: bool) -> None:
    row = [6, 2, 13, 8, 12]
    x, keys, queries = (torch.randn(1, sum(row), 2, 4).double() for _ in range(3))
    decay = -torch.rand(1, sum(row), 2).double()
    weights = [TokenWeights(*part) for part in torch.rand(2, *decay.shape).double().split(row, 2)]
    state = torch.randn(1, 2, 4, 4).double()

    def run(tensors: Sequence[Tensor], weights: TokenWeights, **settings: Any) -> tuple[Tensor, Tensor]:
        return ssd(*tensors, chunk_tokens=chunk_tokens, weights=weights if is_weighted else None, **settings)

    whole = TokenWeights(*(torch.cat(parts, 1) for parts in zip(*weights, strict=True)))
    y, final = run((x, decay, keys, queries), whole, document_BL=numbers([row]), initial_state=state)
    parts = zip(*(t.split(row, 1) for t in (x, decay, keys, queries)), strict=True)
    results = [
        run(part, own, initial_state=None if i else state)
        for i, (part, own) in enumerate(zip(parts, weights, strict=True))
    ]
    torch.testing.assert_close(y, torch.cat([part for part, _ in results], 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(final, results[-1][1], rtol=0, atol=1e-10)


def test_strong_decays_of_other_documents_stay_finite() -> None:
    row = [30, 2, 64, 32]
    tensors = [torch.randn(1, sum(row), 2, 4, requires_grad=True) for _ in range(3)]
    decay = torch.full((1, sum(row), 2), -200.0, requires_grad=True)
    y, _ = ssd(tensors[0], decay, *tensors[1:], chunk_tokens=16, document_BL=numbers([row]))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (*tensors, decay))
