"""One folder for each client, with everything that knows its private names, and what they share."""
