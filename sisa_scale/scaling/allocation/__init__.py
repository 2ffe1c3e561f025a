"""What a law says of spending a budget."""
