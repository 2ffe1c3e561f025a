"""`sisa-scale study`, one file a command."""
