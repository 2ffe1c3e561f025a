"""The optimizers, one file each: what configuration, planning, checkpoints and the engine need to know of them."""
