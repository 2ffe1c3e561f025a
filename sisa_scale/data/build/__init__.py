"""From text files to shards."""
