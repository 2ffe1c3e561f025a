"""The engine: DeepSpeed, the optimizer, compilation."""
