"""Handing a run to a machine or a cluster."""
