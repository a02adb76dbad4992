"""Policies brought to life: breakers, drivers, and what a client must be able to do for them."""
