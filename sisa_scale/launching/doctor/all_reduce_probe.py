"""`python -m sisa_scale.launching.doctor.all_reduce_probe BACKEND FILE RANK WORLD_SIZE`: one process of a measurement.

Prints the bus bandwidth in bytes a second: 2 (n - 1) / n times the bytes of the tensor over the time, which does not
depend on the number of processes n if the wires are the limit.
"""

import sys
import time
from datetime import timedelta

_REPETITIONS = 5


def main(backend: str, file: str, rank: int, world_size: int) -> None:
    """Reduce a tensor a few times."""
    import torch
    from torch import distributed

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    num_bytes = (256 << 20) if backend == "nccl" else (16 << 20)
    timeout = timedelta(seconds=30)
    distributed.init_process_group(
        backend, init_method=f"file://{file}", rank=rank, world_size=world_size, timeout=timeout
    )
    tensor = torch.ones(num_bytes // 4, device=device)
    distributed.all_reduce(tensor)
    if tensor[0].item() != world_size:
        sys.exit(f"the sum over {world_size} processes is {tensor[0].item()}")
    if backend == "nccl":
        torch.cuda.synchronize(device)
    distributed.barrier()
    started = time.perf_counter()
    for _ in range(_REPETITIONS):
        distributed.all_reduce(tensor)
    if backend == "nccl":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - started) / _REPETITIONS
    sys.stdout.write(f"{2 * (world_size - 1) / world_size * num_bytes / seconds}\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
