"""DeepSpeed behind a small interface: build, step, score, and hand out its state."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from sisa_scale.compat.deepspeed import import_deepspeed, partitioned_gradient_norm, spread_weights
from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.documents import IGNORED_TARGET
from sisa_scale.data.read.stream import Batch
from sisa_scale.faults import fault_point
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.head import TokenScores
from sisa_scale.models.kernels.float8 import Float8Modules, use_float8
from sisa_scale.models.monitors import LayerMonitor
from sisa_scale.training.engine.average import swap_average, update_average
from sisa_scale.training.engine.communicator import Communicator
from sisa_scale.training.engine.compile import (
    begin_cuda_graphs,
    compile_blocks,
    compile_settings,
    keep_gradients,
    uses_cuda_graphs,
)
from sisa_scale.training.engine.deepspeed_config import deepspeed_config
from sisa_scale.training.engine.fragments import fragments, held_matrices, matrices_of
from sisa_scale.training.engine.optimizers import build_optimizer, set_learning_rate
from sisa_scale.training.optimizers.matrix_exchange import WholeMatrixOptimizer

Reading = TypeVar("Reading")

# Told this worker's mean loss and the gradient norm of the global batch before any weight changes; returns whether the
# step is to be taken, the same on all workers.
Admit = Callable[[float, float], bool]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimizer step: this worker's loss of every micro-step (nats), wall seconds."""

    micro_losses: tuple[float, ...]
    seconds: float


class Engine:
    """A model under ZeRO. Weights must be in place before it is built: they become the fp32 masters.

    ignores_targets: batches, of whichever worker, may have targets that are not trained on. float8: the dense layers of
    `execution.float8_products`, None without it.
    """

    def __init__(
        self, model: Decoder, config: RunConfig, workers: Communicator, *, ignores_targets: bool = False
    ) -> None:
        deepspeed = import_deepspeed()
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        self.float8: Float8Modules | None = use_float8(model.blocks) if config.execution.float8_products else None
        if config.execution.compile:
            compile_blocks(model.blocks, **compile_settings(config.execution))
        sharing = config.execution.sequence_parallel_size
        self.sequence_group = workers.sequence_group(sharing) if sharing > 1 else None
        model.share_sequences(self.sequence_group)
        model.to(workers.device)
        self.uses_cuda_graphs = uses_cuda_graphs(config.execution)
        if self.uses_cuda_graphs:
            keep_gradients(model.blocks)
        self.shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        self.optimizer_states = config.optimizer.spec.stored_states(self.shapes)
        self.config, self.workers, self.ignores_targets = config, workers, ignores_targets
        self.micro_batch = config.execution.micro_batch_sequences
        self.optimizer = build_optimizer(model, config.optimizer)
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=self.optimizer, config=deepspeed_config(config))
        self.optimizer.register_step_pre_hook(self._before_update)
        self.optimizer.register_step_post_hook(self._after_update)
        self._withheld: list[tuple[Tensor, Tensor | None]] = []
        self._average_decay = 1.0
        self.model = model
        self._place_matrices()

    def _place_matrices(self) -> None:
        """Tell an optimizer that needs whole matrices where their elements lie."""
        names, stage = self.config.optimizer.spec.whole(self.shapes), self.config.execution.zero_stage
        if names:
            matrices = matrices_of(self.model, self.shapes, names)
            found = fragments(self.model, self.engine, stage, self.workers.rank)
            optimizer = cast(WholeMatrixOptimizer, self.optimizer)
            optimizer.place(matrices, held_matrices(matrices, found, stage), self.workers)

    def step(self, batch: Batch, learning_rate: float, admit: Admit) -> StepResult:
        """Take one optimizer step on this worker's share of the global batch, if all workers admit it.

        Where workers share sequences, batch has their whole sequences.
        """
        started = time.perf_counter()
        set_learning_rate(self.optimizer, learning_rate)
        batch = self._own_tokens(batch)
        losses: list[Tensor] = []
        tokens = batch.tokens_BL.to(self.workers.device, non_blocking=True).split(self.micro_batch)
        targets = batch.targets_BL.to(self.workers.device, non_blocking=True).split(self.micro_batch)
        documents = self._documents(batch, len(tokens))
        weights = self._weights(batch) if self.ignores_targets else [1.0] * len(tokens)
        groups = self.workers.world_size // self.config.execution.sequence_parallel_size
        step_tokens = len(tokens) * self.micro_batch * groups * self.config.data.sequence_tokens
        self._average_decay = self.config.optimizer.average_decay(step_tokens)
        if len(tokens) != self.engine.gradient_accumulation_steps():  # a ramp of the global batch
            self.engine.set_train_batch_size(len(tokens) * self.micro_batch * self.workers.world_size)
        for tokens_BL, targets_BL, document, weight in zip(tokens, targets, documents, weights, strict=True):
            # DeepSpeed would count micro-steps from the start of the process, as if every step had as many.
            self.engine.set_gradient_accumulation_boundary(len(losses) + 1 == len(tokens))
            if self.uses_cuda_graphs:
                begin_cuda_graphs()
            loss = self.engine(tokens_BL, targets_BL, **document)
            if self.ignores_targets:
                loss = weight * loss
            fault_point("step.before_backward")
            self.engine.backward(loss)
            losses.append(loss.detach())
            if len(losses) == len(tokens):
                self._is_admitted = self._ask_once(admit, losses)
            self.engine.step()
        self._is_admitted()  # DeepSpeed drops a gradient that is not finite without asking the optimizer
        return StepResult(tuple(torch.stack(losses).tolist()), time.perf_counter() - started)

    def _ask_once(self, admit: Admit, losses: list[Tensor]) -> Callable[[], bool]:
        """Return the question to all workers, which is put once in a step, whoever needs the answer first."""
        unpartitioned_norm = self._unpartitioned_gradient_norm()

        @functools.cache
        def is_admitted() -> bool:
            norm = partitioned_gradient_norm(self.engine) if unpartitioned_norm is None else float(unpartitioned_norm)
            answer = admit(torch.stack(losses).double().mean().item(), norm)
            fault_point("step.before_update")
            return answer

        return is_admitted

    def _before_update(self, optimizer: torch.optim.Optimizer, *_arguments: object) -> None:
        """Leave the optimizer without gradients if the step is refused: it then changes neither weights nor states.

        DeepSpeed calls the optimizer once for every group of parameters, and cleans up as after any other step.
        """
        if self._is_admitted():
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._withheld = [(weight, weight.grad) for weight in weights]
        optimizer.zero_grad(set_to_none=True)

    def _after_update(self, optimizer: torch.optim.Optimizer, *_arguments: object) -> None:
        """Move the average of the weights, or give back what was withheld.

        On the host DeepSpeed has one buffer of gradients for all steps.
        """
        if not self._withheld:
            update_average(optimizer, self._average_decay)
        for weight, gradient in self._withheld:
            weight.grad = gradient
        self._withheld = []

    def _own_tokens(self, batch: Batch) -> Batch:
        """Return the batch with this worker's part of every sequence, but the documents of all of it."""
        group = self.sequence_group
        if group is None:
            return batch
        tokens_BL, targets_BL = (x.chunk(group.size, dim=1)[group.rank] for x in (batch.tokens_BL, batch.targets_BL))
        return replace(batch, tokens_BL=tokens_BL, targets_BL=targets_BL)

    def _documents(self, batch: Batch, num_micro_steps: int) -> list[dict[str, Tensor]]:
        """Return what the model is told of the documents of every micro-step, which is nothing when they are joined."""
        if batch.document_BL is None:
            return [{}] * num_micro_steps
        documents = batch.document_BL.to(self.workers.device, non_blocking=True).split(self.micro_batch)
        return [{"document_BL": document_BL} for document_BL in documents]

    def _weights(self, batch: Batch) -> list[float]:
        """Return the weight of every micro-step's mean loss, which is over the targets that are not ignored.

        DeepSpeed takes the mean over micro-steps and workers; so weighted, it is the mean over the targets of the
        global batch.
        """
        counts = [int((part != IGNORED_TARGET).sum()) for part in batch.targets_BL.split(self.micro_batch)]
        num_targets = max(1, int(self.workers.sum(torch.tensor(sum(counts)))))
        return [count * self.workers.world_size * len(counts) / num_targets for count in counts]

    def _unpartitioned_gradient_norm(self) -> Tensor | None:
        """Return the gradient norm of a whole step under stage 0, which DeepSpeed clips without telling its norm."""
        if self.config.execution.zero_stage > 0:
            return None
        return get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the moving average of its weights for the time of the block; all workers do so together."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        swap_average(self.optimizer)
        spread_weights(self.engine, self.config.execution.zero_stage)

    @torch.no_grad()
    def score(self, tokens_BL: Tensor, targets_BL: Tensor, document_BL: Tensor | None = None) -> TokenScores:
        """Return what the model says of every target; under ZeRO-3 all workers must call this together.

        document_BL numbers the document of every token, each read as if alone; None reads all as one.
        """
        device = self.workers.device
        documents = {} if document_BL is None else {"document_BL": document_BL.to(device)}
        self.engine.eval()
        try:
            with torch.compiler.set_stance("force_eager"):
                scores: TokenScores = self.engine(
                    tokens_BL.to(device), targets_BL.to(device), per_token=True, **documents
                )
            return scores
        finally:
            self.engine.train()

    def monitor(self, tokens_BL: Tensor, document_BL: Tensor | None = None) -> list[LayerMonitor]:
        """Return the readings of every SISA layer; under ZeRO-3 all workers must call this together."""
        return self.observe(Decoder.monitor, tokens_BL, document_BL)

    def continued(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Return the most probable continuation; all workers call this together, with as many passes on each.

        Every token takes a whole forward pass: under ZeRO 3 the weights of a block are there in that alone.
        """
        whole = import_deepspeed().zero.GatheredParameters if self.config.execution.zero_stage == 3 else nullcontext

        def next_token(model: Decoder, tokens_BL: Tensor, _document_BL: Tensor | None) -> int:
            x_BLD = model.hidden(tokens_BL)[:, -1:]
            with whole([model.embedding.weight]):
                return int(model.head.logits(x_BLD)[0, -1].argmax())

        tokens = list(prompt)
        for _ in range(num_tokens):
            tokens.append(self.observe(next_token, torch.tensor([tokens]), None))
        return tokens[len(prompt) :]

    @torch.no_grad()
    def observe(
        self, read: Callable[[Decoder, Tensor, Tensor | None], Reading], tokens_BL: Tensor, document_BL: Tensor | None
    ) -> Reading:
        """Return what `read` says of the model on these tokens, in the run's precision and uncompiled.

        Under ZeRO-3 all workers must call this together.
        """
        device = self.workers.device
        bf16 = self.config.execution.precision == "bf16"
        document_BL = None if document_BL is None else document_BL.to(device)
        self.engine.eval()
        try:
            with torch.compiler.set_stance("force_eager"), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return read(self.model, tokens_BL.to(device), document_BL)
        finally:
            self.engine.train()
