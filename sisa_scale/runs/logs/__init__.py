"""The logs of a run, a line for each step or event."""
