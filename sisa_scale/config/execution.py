"""Sections `execution` and `resources`: how and where the same arithmetic is carried out. May change on resume."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import Violation, setting

# Gradients of so many elements are sent between workers at once; a buffer of that size is there in the backward pass.
REDUCE_BUCKET_ELEMENTS = 100_000_000
# Matrices of so many elements are put together at a time by an optimizer that needs them whole.
MATRIX_BUCKET_ELEMENTS = 2**27
# ZeRO 3 gathers no more than so many parameters ahead, and keeps a block's that it needs again within so many.
GATHERED_PARAMS = 1_000_000_000
# The GPU's kernels for 8-bit floats take matrices whose sizes are multiples of it.
FLOAT8_MULTIPLE = 16
FLOAT8_GPUS = "products of 8-bit floats need compute capability 8.9: Ada, Hopper and later"

Recomputation = Literal["none", "selective", "full"]
AttentionBackend = Literal["auto", "math", "flash", "flash_padded", "flash_4", "efficient", "cudnn", "cudnn_padded"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionConfig:
    """Memory and speed of a step; none of these changes what is computed beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = setting("DeepSpeed ZeRO stage", default=1)
    reshard_after_forward: bool = setting(
        "ZeRO 3: free gathered weights after the forward pass and gather them again for the backward "
        "pass; false keeps the whole model gathered between the two: up to a third less communication, 4 "
        "bytes per parameter more memory",
        default=True,
    )
    offload_optimizer: bool = setting(
        "keep fp32 master weights and moments in host memory and run the optimizer step there: larger "
        "models on few GPUs, slower steps (ZeRO-Offload, 2101.06840)",
        default=False,
    )
    precision: Literal["bf16", "fp32"] = setting(
        "arithmetic of the forward and backward pass; weights, gradients and moments are kept in fp32", default="bf16"
    )
    micro_batch_sequences: int = setting("sequences per forward pass and worker", minimum=1)
    sequence_parallel_size: int = setting(
        "number of workers that share each sequence: outside mixers each has a part of the tokens, inside"
        " a part of the heads (DeepSpeed-Ulysses, 2309.14509); longer sequences in the same memory; 1 "
        "turns it off",
        default=1,
        minimum=1,
    )
    activation_checkpointing: Recomputation | int = setting(
        "what is recomputed in the backward pass: 'none', 'selective' (all but products and attention), 'full' (every "
        "block) or k (every k-th block)",
        default="none",
        minimum=1,
    )
    compile: bool = setting("compile the blocks with torch.compile", default=False)
    compile_tuning: bool = setting(
        "tune the launch settings of every compiled kernel by measurement: faster Mamba scans; the first "
        "step takes minutes; torch caches the result",
        default=False,
    )
    cuda_graphs: bool = setting(
        "launch the kernels of a compiled block as one CUDA graph: faster where launches limit the speed,"
        " as in small models and Mamba scans; ignored on a CPU",
        default=False,
    )
    float8_products: bool = setting(
        "compute the dense products of the blocks in 8-bit floats with a scale per tensor (Ada, Hopper "
        "and later): faster wide layers, less memory, coarser rounding",
        default=False,
    )
    attention_backend: AttentionBackend = setting(
        "attention kernel; 'auto' measures all that are installed once per device and takes the fastest "
        "(flash_4: package flash-attn-4)",
        default="auto",
    )
    state_space_kernel: Literal["pytorch", "mamba_ssm", "flash_linear_attention"] = setting(
        "recurrences on a GPU: torch products, or the Triton kernels of a package, mamba-ssm for the scan of "
        "Mamba-2 and Hymba, flash-linear-attention for Gated DeltaNet",
        default="pytorch",
    )
    determinism: Literal["fast", "strict"] = setting(
        "'strict' makes a run repeatable to the last bit on the same devices and number of workers; it is slower",
        default="fast",
    )
    loss_chunk_tokens: int = setting(
        "tokens per chunk of the loss: bounds the memory of logits", default=8192, minimum=1
    )

    def recomputation(self, layer: int) -> Recomputation:
        """Return what activation checkpointing has a layer compute again."""
        setting = self.activation_checkpointing
        if isinstance(setting, int):
            return "none" if layer % setting else "full"
        return setting

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if self.compile_tuning and not self.compile:
            yield Violation(
                "compile_tuning", "true with compile false", "tunes what torch.compile makes", "Write compile: true."
            )
        if self.cuda_graphs and not self.compile:
            yield Violation(
                "cuda_graphs", "true with compile false", "captures what torch.compile makes", "Write compile: true."
            )
        if self.cuda_graphs and self.zero_stage == 3:
            yield Violation(
                "cuda_graphs",
                "true with zero_stage 3",
                "a graph reads weights at fixed addresses, and ZeRO 3 gathers them anywhere",
                "Write zero_stage: 2, or cuda_graphs: false.",
            )
        if self.cuda_graphs and self.sequence_parallel_size > 1:
            yield Violation(
                "cuda_graphs",
                f"true with sequence_parallel_size {self.sequence_parallel_size}",
                "what workers send each other inside a block is not captured",
                "Write sequence_parallel_size: 1, or cuda_graphs: false.",
            )
        if self.float8_products and self.precision != "bf16":
            yield Violation(
                "float8_products",
                f"true with precision {self.precision}",
                "takes the place of products in bf16",
                "Write precision: bf16.",
            )
        if self.offload_optimizer and self.zero_stage == 0:
            yield Violation(
                "offload_optimizer",
                "true with zero_stage 0",
                "the optimizer's states can be offloaded where ZeRO partitions them, stages 1 to 3",
                "Write zero_stage: 1, also for one worker.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourcesConfig:
    """Workers and the Ray cluster they run on."""

    workers: int = setting("number of workers: one per GPU, or CPU processes", default=1, minimum=1)
    min_workers: int | None = setting(
        "smallest number of workers to continue with when nodes are lost; null waits for all",
        default=None,
        minimum=1,
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "'auto' uses GPUs if there is one for every worker", default="auto"
    )
    cpus_per_worker: int = setting("CPU cores Ray reserves for a worker", default=1, minimum=1)
    ray_address: str | None = setting("address of a running Ray cluster; null starts one on this machine", default=None)
    max_failures: int = setting("restarts after lost workers before the run ends with an error", default=20, minimum=0)
    max_node_failures: int = setting(
        "a node on which this many workers died gets no more workers if other nodes suffice; 0 never excludes a node",
        default=2,
        minimum=0,
    )
    resize_every_seconds: float = setting(
        "interval of checks for returned nodes, where min_workers is set", default=60.0, above=0
    )

    @property
    def worker_range(self) -> range:
        """Every number of workers that the run may have."""
        return range(self.min_workers or self.workers, self.workers + 1)

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if self.min_workers is not None and self.min_workers > self.workers:
            yield Violation(
                "min_workers",
                str(self.min_workers),
                f"must be at most workers {self.workers}",
                "Lower it, or write null for a fixed number.",
            )
        if self.ray_address == "":
            yield Violation("ray_address", "''", "an address or null", "Write null to start a local cluster.")
