"""Scaling laws from a table of runs: fits, intervals, comparisons, designs, forecasts and a report. Needs no torch."""
