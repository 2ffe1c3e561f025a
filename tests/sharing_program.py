"""What torchrun starts in a test: models whose sequences two workers share, beside the same models alone.

Prints a line a case with the largest relative errors of its loss, and of its gradients.
"""

import json
import sys

import torch
import torch.distributed as dist
from sharing_cases import CASES, LENGTH, Case

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine.communicator import connect, leave

workers = connect("cpu")
group = workers.sequence_group(2)


def random_tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 100, (3, LENGTH), generator=torch.Generator().manual_seed(seed))


def built(case: Case) -> Decoder:
    execution = ExecutionConfig(micro_batch_sequences=1, precision="fp32", activation_checkpointing=case.recomputation)
    model = Decoder(case.model, execution, "math")
    model.initialise(0)
    model.to(torch.float32 if case.is_compiled else torch.float64)
    with torch.no_grad():  # as if trained: no parameter of a head is that of another
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def own(x_BL: torch.Tensor) -> torch.Tensor:
    return x_BL.chunk(2, dim=1)[group.rank]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm().clamp(min=1e-9)).item()


def compare(name: str, case: Case) -> None:
    model, tokens_BL, targets_BL = built(case), random_tokens(1), random_tokens(2)
    documents = {"document_BL": (tokens_BL < 5).cumsum(1)} if case.is_separate else {}
    loss = model(tokens_BL, targets_BL, **documents)
    loss.backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    model.share_sequences(group)
    if case.is_compiled:
        for block in model.blocks:
            block.forward = torch.compile(block.forward, backend="aot_eager", dynamic=False)
    own_loss = model(own(tokens_BL), own(targets_BL), **documents)
    (own_loss / 2).backward()
    mean = own_loss.detach() / 2
    dist.all_reduce(mean)
    errors = {}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        errors[key] = error(parameter.grad, expected[key])
    model.eval()
    with torch.no_grad():  # alone: the other worker takes no part in it
        alone = model(tokens_BL, targets_BL, **documents) if workers.is_main else loss
    worst = max(errors, key=lambda key: errors[key])
    found = {"loss": error(mean, loss.detach()), "alone": error(alone, loss.detach()), worst: errors[worst]}
    if workers.is_main:
        sys.stdout.write(f"FOUND {name}: {json.dumps(found)}\n")


for case_name, described in CASES.items():
    compare(case_name, described)
leave()
