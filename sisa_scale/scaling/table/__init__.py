"""The table of runs: reading, meaning, checks."""
