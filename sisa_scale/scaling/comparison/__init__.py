"""Architectures beside each other."""
