"""`sisa-scale data`, one file a command."""
