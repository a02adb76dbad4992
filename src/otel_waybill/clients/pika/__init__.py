"""pika: everything that knows its private names.

Importable without pika; its modules are not.
"""

from otel_waybill.clients.shared.live import Live

live = Live()
