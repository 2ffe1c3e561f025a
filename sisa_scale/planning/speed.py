"""How long a run takes and what it costs, from its FLOPs and utilisations that were measured."""

from dataclasses import dataclass

from sisa_scale.config.run import RunConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.attention_calls import attention_calls
from sisa_scale.planning.devices import Gpu
from sisa_scale.planning.flops import flops_per_token

# MFU of the kinds of layers, each from a whole model of 152M parameters with an MLP in every layer, on one H100:
# compiled, bf16, 16 x 2048 tokens in a micro-batch (docs/performance.md, "One H100, 152M, all architectures").
MEASURED_MFU = {"attention": 0.400, "sisa": 0.356, "mamba2": 0.253, "mamba3": 0.269, "hymba": 0.254}
# SISA in 16 calls a layer, of 128 queries each, ran at 0.111 where one call had 0.257 (the same document, one H200).
QUERY_BLOCKS = 0.111 / 0.257
# What `selective` adds to the time of a step, measured on one H200 (the same document, "One H200"), as a share.
SELECTIVE_SHARE = {"attention": 0.044, "sisa": 0.099}
MEASURED_PARAMS, MEASURED_SEQUENCE_TOKENS, MEASURED_MICRO_BATCH_TOKENS = 152e6, 2048, 32_768
NEAR, FAR = 0.05, 0.25  # relative uncertainty of tokens/s where it was measured, and elsewhere (a judgement)


@dataclass(frozen=True, slots=True)
class RunTime:
    """Tokens per second of all GPUs, and what follows from them.

    uncertainty: relative, of all figures; assumptions: why it is no smaller.
    """

    mfu: float
    tokens_per_second: float
    total_tokens: int
    num_gpus: int
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
    slower = {"sisa": QUERY_BLOCKS} if calls is not None and calls.calls > 1 else {}
    slowness = sum(1 / (MEASURED_MFU[mixer] * slower.get(mixer, 1.0)) for mixer in model.mixers)
    return model.num_layers / slowness


def recomputed_share(config: RunConfig) -> float:
    """Return which share of a step activation checkpointing adds: measured for `selective`, else its FLOPs.

    Where `selective` was not measured, a layer counts as if it were recomputed whole.
    """
    flops, model = flops_per_token(config.model, config.data.sequence_tokens), config.model
    whole = (flops.forward - flops.head) / flops.train
    shares = {"none": 0.0, "full": whole}
    hows = [(config.execution.recomputation(layer), mixer) for layer, mixer in enumerate(model.mixers)]
    added = [SELECTIVE_SHARE.get(mixer, whole) if how == "selective" else shares[how] for how, mixer in hows]
    return sum(added) / model.num_layers


def plan_time(config: RunConfig, gpu: Gpu) -> RunTime:
    """Return the time of a run on `resources.workers` GPUs of a type. No time is lost to communication."""
    flops = flops_per_token(config.model, config.data.sequence_tokens).train * (1 + recomputed_share(config))
    mfu, workers = expected_mfu(config), config.resources.workers
    assumptions = tuple(_assumptions(config, gpu))
    return RunTime(
        mfu=mfu / (1 + recomputed_share(config)),
        tokens_per_second=workers * mfu * gpu.peak_flops / flops,
        total_tokens=config.total_steps * config.data.global_batch_tokens,
        num_gpus=workers,
        uncertainty=FAR if assumptions else NEAR,
        assumptions=assumptions,
    )


def _assumptions(config: RunConfig, gpu: Gpu) -> list[str]:
    execution, length = config.execution, config.data.sequence_tokens
    size = count_parameters(config.model).total / MEASURED_PARAMS
    calls = attention_calls(config.model, length)
    checks = {
        f"the utilisation of an H100 holds on {gpu.name}": gpu.name != "h100",
        "utilisation is as at 152M parameters": not 0.8 < size < 1.25,
        f"utilisation is as at {MEASURED_SEQUENCE_TOKENS} tokens a sequence": length != MEASURED_SEQUENCE_TOKENS,
        f"utilisation is as at {MEASURED_MICRO_BATCH_TOKENS:,} tokens a micro-batch": (
            execution.micro_batch_sequences * length < MEASURED_MICRO_BATCH_TOKENS / 2
        ),
        "no time is lost to communication between GPUs": config.resources.workers > 1,
        "recomputed blocks cost their FLOPs": execution.activation_checkpointing not in ("none", "selective"),
        "selective recomputation costs what it cost on an H200, or as much as full": (
            execution.activation_checkpointing == "selective"
        ),
        "speed is that of compiled blocks (execution.compile is false: it will be slower)": not execution.compile,
        "speed is that of bf16 (execution.precision is fp32: it will be slower)": execution.precision == "fp32",
        "products in float8 are as fast as in bf16 (wide layers will be faster)": execution.float8_products,
        "the step of an offloaded optimizer takes no time (it will be slower)": execution.offload_optimizer,
        "SISA in several calls is as slow as in 16": calls is not None and calls.calls > 1,
        "documents are joined (a document mask is slower)": config.data.documents == "separate",
    }
    return [text for text, applies in checks.items() if applies]
