"""Arithmetic that mixers and the head share: attention calls, scans, the loss, products."""
