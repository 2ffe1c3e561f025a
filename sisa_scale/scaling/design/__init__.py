"""Planning runs before any is made."""
