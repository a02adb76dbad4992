"""What stands around the four services: it starts them, collects their spans, draws and counts."""
