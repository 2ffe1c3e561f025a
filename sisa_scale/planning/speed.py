"""How long a run takes and what it costs, from its FLOPs and utilisations that were measured."""

from dataclasses import dataclass

from sisa_scale.config.heads import attention_block_settings
from sisa_scale.config.mixers.spec import Measured
from sisa_scale.config.mixers.table import mixer_specs
from sisa_scale.config.run import RunConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.attention_calls import attention_calls
from sisa_scale.planning.communication import Network, communication_seconds
from sisa_scale.planning.devices import Gpu
from sisa_scale.planning.flops import flops_per_token

# What a mixer was measured with (`config.mixers`): a model of 152M parameters with an MLP in every layer on one H100,
# compiled, bf16 (docs/performance.md, "One GPU").
MEASURED_PARAMS, MEASURED_SEQUENCE_TOKENS, MEASURED_MICRO_BATCH_TOKENS = 152e6, 2048, 32_768
_NETWORK = Network()
NEAR, FAR = 0.05, 0.25  # relative uncertainty of tokens/s where it was measured, and elsewhere (a judgement)


@dataclass(frozen=True, slots=True)
class RunTime:
    """Tokens per second of all GPUs, and what follows from them.

    sending_share: of the time, spent on communication between GPUs. uncertainty: relative, of all figures; assumptions:
    why it is no smaller.
    """

    mfu: float
    tokens_per_second: float
    total_tokens: int
    num_gpus: int
    sending_share: float
    uncertainty: float
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Wall time of the steps; start, evaluations and checkpoints are not counted."""
        return self.total_tokens / self.tokens_per_second

    @property
    def gpu_hours(self) -> float:
        """Hours times GPUs."""
        return self.seconds * self.num_gpus / 3600

    def cost(self, price_per_gpu_hour: float) -> float:
        """Return the price of all GPU-hours."""
        return self.gpu_hours * price_per_gpu_hour


def expected_mfu(config: RunConfig) -> float:
    """Return the MFU of a model: its layers take the time that layers of their kind took."""
    model = config.model
    calls = attention_calls(model, config.data.sequence_tokens)
    is_single = calls is None or calls.calls == 1
    measured = [model.spec(layer).measured or slowest_measured()[1] for layer in range(model.num_layers)]
    slowness = sum(
        1
        / (layer.mfu * (1.0 if is_single else layer.several_calls) * (layer.normalized if model.is_normalized else 1.0))
        for layer in measured
    )
    return model.num_layers / slowness


def slowest_measured() -> tuple[str, Measured]:
    """Return the mixer with the lowest measured MFU, and its speeds: one that was not measured is planned with them."""
    measured = [(spec.name, spec.measured) for spec in mixer_specs() if spec.measured is not None]
    return min(measured, key=lambda pair: pair[1].mfu)


def recomputed_share(config: RunConfig) -> float:
    """Return which share of a step activation checkpointing adds: measured for `selective`, else its FLOPs.

    Where `selective` was not measured, a layer counts as if it were recomputed whole.
    """
    flops, model = flops_per_token(config.model, config.data.sequence_tokens), config.model
    whole = (flops.forward - flops.head) / flops.train
    shares, added = {"none": 0.0, "full": whole}, 0.0
    for layer in range(model.num_layers):
        measured = model.spec(layer).measured
        share = measured.selective_share if measured is not None else None
        shares["selective"] = whole if share is None else share
        added += shares[config.execution.recomputation(layer)]
    return added / model.num_layers


def plan_time(config: RunConfig, gpu: Gpu, network: Network = _NETWORK) -> RunTime:
    """Return the time of a run on `resources.workers` GPUs of a type that are joined by a network."""
    flops = flops_per_token(config.model, config.data.sequence_tokens).train * (1 + recomputed_share(config))
    mfu, workers = expected_mfu(config), config.resources.workers
    assumptions = tuple(_assumptions(config, gpu, network))
    computing = config.data.global_batch_tokens * flops / (workers * mfu * gpu.peak_flops)
    sending = communication_seconds(config, gpu, network)
    busy = computing / (computing + sending)
    return RunTime(
        mfu=busy * mfu / (1 + recomputed_share(config)),
        tokens_per_second=config.data.global_batch_tokens / (computing + sending),
        total_tokens=config.total_tokens,
        num_gpus=workers,
        sending_share=1 - busy,
        uncertainty=FAR if assumptions else NEAR,
        assumptions=assumptions,
    )


def _assumptions(config: RunConfig, gpu: Gpu, network: Network) -> list[str]:
    execution, length = config.execution, config.data.sequence_tokens
    size = count_parameters(config.model).total / MEASURED_PARAMS
    calls = attention_calls(config.model, length)
    unmeasured = [spec.name for spec in config.model.specs if spec.measured is None]
    slowest, measured = slowest_measured()
    checks = {
        f"blocks of {', '.join(unmeasured)}, which were not measured, run at the utilisation of {slowest}, the slowest "
        f"that was ({measured.mfu:.1%})": bool(unmeasured),
        f"the utilisation of an H100 holds on {gpu.name}": gpu.name != "h100",
        "utilisation is as at 152M parameters": not 0.8 < size < 1.25,
        f"utilisation is as at {MEASURED_SEQUENCE_TOKENS} tokens a sequence": length != MEASURED_SEQUENCE_TOKENS,
        f"utilisation is as at {MEASURED_MICRO_BATCH_TOKENS:,} tokens a micro-batch": (
            execution.micro_batch_sequences * length < MEASURED_MICRO_BATCH_TOKENS / 2
        ),
        f"nothing is computed while GPUs send to each other ({network.link(gpu, config.resources.workers)[1]})": (
            config.resources.workers > 1
        ),
        "workers that share a sequence exchange it in no time": execution.sequence_parallel_size > 1,
        "recomputed blocks cost their FLOPs": execution.activation_checkpointing not in ("none", "selective"),
        "selective recomputation costs what it cost on an H200, or as much as full": (
            execution.activation_checkpointing == "selective"
        ),
        "speed is that of compiled blocks (execution.compile is false: it will be slower)": not execution.compile,
        "speed is that of bf16 (execution.precision is fp32: it will be slower)": execution.precision == "fp32",
        "products in float8 are as fast as in bf16 (wide layers will be faster)": execution.float8_products,
        "the step of an offloaded optimizer takes no time (it will be slower)": execution.offload_optimizer,
        "SISA in several calls is as slow as in 16": calls is not None and calls.calls > 1,
        "grouped queries, windows and gates of attention change no utilisation (not measured)": bool(
            attention_block_settings(config.model)
        ),
        "documents are joined (a document mask is slower)": config.data.documents == "separate",
    }
    return [text for text, applies in checks.items() if applies]
