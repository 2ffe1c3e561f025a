"""Fitting a law, and how sure it is."""
