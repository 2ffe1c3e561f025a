"""DeepSpeed's JSON, generated from ours."""

from typing import Any

import torch

from sisa_scale.config.execution import GATHERED_PARAMS, REDUCE_BUCKET_ELEMENTS
from sisa_scale.config.run import RunConfig
from sisa_scale.models.block import Block

BLOCK = f"{Block.__module__}.{Block.__qualname__}"


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a run.

    Mixed precision is torch autocast, not DeepSpeed's `bf16` section: there the weights of the forward pass are
    rounded to bf16, so that small steps of norms, biases and lambda are lost until they add up to a rounding step.
    An empty list of lower-precision modules keeps every reduction in fp32.
    """
    execution = config.execution
    zero: dict[str, Any] = {"stage": execution.zero_stage, "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS}
    if execution.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if execution.zero_stage == 3:
        # A block gathers its weights as a whole, and multiplies as torch does. Hooks on the modules inside, and
        # DeepSpeed's own product, which reads the number of every weight, would cut its compiled code in pieces and
        # have each block compiled anew.
        zero |= {"leaf_module": {"classes": [BLOCK]}, "memory_efficient_linear": False}
        gathered = GATHERED_PARAMS if execution.reshard_after_forward else 2**62
        zero |= {"stage3_max_live_parameters": gathered, "stage3_max_reuse_distance": gathered}
    return {
        # DeepSpeed counts sequences of workers: those that share one count it each.
        "train_batch_size": config.data.global_batch_sequences * execution.sequence_parallel_size,
        "train_micro_batch_size_per_gpu": execution.micro_batch_sequences,
        "gradient_accumulation_steps": config.accumulation_steps,
        "gradient_clipping": config.optimizer.gradient_clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # any that updates every element by itself (config/optimizers)
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler on the host
        "torch_autocast": {
            "enabled": execution.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 2**62,
    }
