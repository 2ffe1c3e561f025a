"""Public corpora and tokenizers by name, for those with a connection."""
