"""`sisa-scale laws`, one file a command."""
