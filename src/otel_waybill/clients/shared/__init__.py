"""What both clients do in the same way."""
