"""Cluster profiles, one class a target."""
