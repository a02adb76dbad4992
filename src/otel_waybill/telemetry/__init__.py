"""What is recorded, and how context travels; nothing here knows a client."""
