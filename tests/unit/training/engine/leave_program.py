"""What torchrun starts in a test: a worker that ends while a thread of gloo's holds tensors of Python's."""

import torch
import torch.distributed as dist

from sisa_scale.training.engine.communicator import connect, leave

aside = connect("cpu").aside()
for _ in range(40):
    dist.all_reduce(torch.ones(2_000_000), group=aside.group, async_op=True)
print("ENDS", flush=True)
leave()
