"""One file a form of a checkpoint."""
