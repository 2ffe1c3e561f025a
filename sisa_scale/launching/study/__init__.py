"""Studies: their runs started here, or handed to a cluster."""
