"""From bytes of files to clean texts."""
