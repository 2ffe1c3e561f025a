"""What happens after a step."""
