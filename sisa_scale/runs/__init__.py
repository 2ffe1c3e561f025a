"""The run directory: the only code that knows the names and formats of the files of a run. Needs no torch."""
