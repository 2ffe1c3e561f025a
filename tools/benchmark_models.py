"""Measure the training step of every architecture at one size, in one run, as ratios to the Transformer.

    python tools/benchmark_models.py --data DATA --size 152m --steps 25 --set global_batch_tokens=131072

The same as benchmark_step.py with the recipes of that size; its options are these.
"""

import sys

from benchmark_step import main

MODELS = (
    "transformer/{}",
    "sisa/{}-ds16",
    "jamba/{}",
    "hymba/{}",
    "mamba2/{}-mlp",
    "mamba3/{}-mlp",
    "gated_deltanet/{}",
    "mamba2/{}",
    "mamba3/{}",
)

if __name__ == "__main__":
    arguments = sys.argv[1:]
    size = "152m"
    if "--size" in arguments:
        place = arguments.index("--size")
        size = arguments[place + 1]
        del arguments[place : place + 2]
    sys.argv[1:] = [*(model.format(size) for model in MODELS), *arguments]
    main()
