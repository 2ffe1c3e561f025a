"""Which sequence a position of a run is: arithmetic, no files."""
