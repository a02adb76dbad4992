"""All decisions, and nothing else: no clock, chance, thread, loop, OpenTelemetry or client in here."""
