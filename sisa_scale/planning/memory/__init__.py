"""What a run holds on a GPU."""
