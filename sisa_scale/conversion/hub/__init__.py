"""What `transformers` loads from a converted directory. Copied there with all it imports; nothing here imports more."""
