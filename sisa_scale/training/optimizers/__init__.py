"""Optimizers that torch does not have, and what they need to see whole matrices under ZeRO."""
