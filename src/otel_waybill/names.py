"""Every string that leaves the process, in one place.

Headers and baggage keys are specified in ``docs/wire-format.md``; span and attribute names follow the
OpenTelemetry semantic conventions 1.44 where those have a word, and begin with ``waybill.`` where not.
"""

from typing import Final

DISTRIBUTION: Final = "otel-waybill"
VERSION: Final = "0.1.0"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# Baggage: end-to-end facts, carried through HTTP and gRPC hops too.
BAGGAGE_DEADLINE: Final = "waybill.deadline"
BAGGAGE_TIMEOUT: Final = "waybill.timeout"
BAGGAGE_REQUEST_ID: Final = "waybill.request-id"
BAGGAGE_RETRIES: Final = "waybill.retries"
BAGGAGE_RETRY_LIMIT: Final = "waybill.retry-limit"

# Headers: everything with this prefix is ours and is stripped from whatever a program forwards.
HEADER_PREFIX: Final = "waybill-"

# Copies of the end-to-end facts.
HEADER_DEADLINE: Final = "waybill-deadline"
HEADER_TIMEOUT: Final = "waybill-timeout"
HEADER_REQUEST_ID: Final = "waybill-request-id"
HEADER_RETRIES: Final = "waybill-retries"
HEADER_RETRY_LIMIT: Final = "waybill-retry-limit"

END_TO_END_HEADERS: Final = (
    HEADER_DEADLINE,
    HEADER_TIMEOUT,
    HEADER_REQUEST_ID,
    HEADER_RETRIES,
    HEADER_RETRY_LIMIT,
)

# Facts of one hop, believed only when they come from RETURN_EXCHANGE.
HEADER_ATTEMPT: Final = "waybill-attempt"
HEADER_ID: Final = "waybill-id"
HEADER_CREATION: Final = "waybill-creation"
HEADER_PREVIOUS: Final = "waybill-previous"
HEADER_QUEUE: Final = "waybill-queue"
HEADER_ORIGIN_EXCHANGE: Final = "waybill-origin-exchange"
HEADER_ORIGIN_ROUTING_KEY: Final = "waybill-origin-routing-key"
HEADER_ORIGIN_USER_ID: Final = "waybill-origin-user-id"
HEADER_ORIGIN_EXPIRATION: Final = "waybill-origin-expiration"
HEADER_FIRST_FAILED_AT: Final = "waybill-first-failed-at"
HEADER_NOT_BEFORE: Final = "waybill-not-before"
HEADER_DEFERRALS: Final = "waybill-deferrals"

# Written on parked messages only.
HEADER_REASON: Final = "waybill-reason"
HEADER_EXCEPTION_TYPE: Final = "waybill-exception-type"
HEADER_EXCEPTION_MESSAGE: Final = "waybill-exception-message"
HEADER_FAILED_AT: Final = "waybill-failed-at"
HEADER_CONSUMER: Final = "waybill-consumer"

# Headers of other people that a copy must replace (trace) or drop (the broker's own).
HEADER_TRACEPARENT: Final = "traceparent"
HEADER_TRACESTATE: Final = "tracestate"
HEADER_BAGGAGE: Final = "baggage"
HEADER_DELIVERY_COUNT: Final = "x-delivery-count"
BROKER_HEADERS: Final = frozenset({"x-death", HEADER_DELIVERY_COUNT, "x-acquired-count", "CC", "BCC"})
BROKER_HEADER_PREFIXES: Final = ("x-first-death-", "x-last-death-", "x-opt-")

# Exchanges and queues.
DELAY_PREFIX: Final = "waybill.delay.v1."
RETURN_EXCHANGE: Final = "waybill.return.v1"
UNROUTED: Final = "waybill.unrouted.v1"
PARKING_EXCHANGE: Final = "waybill.parking.v1"
PARKING_ANONYMOUS: Final = "waybill.anonymous."
PARKED_SUFFIX: Final = ".parked"

# Semantic conventions.
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_DESTINATION_ANONYMOUS: Final = "messaging.destination.anonymous"
MESSAGING_DESTINATION_TEMPORARY: Final = "messaging.destination.temporary"
MESSAGING_DESTINATION_TEMPLATE: Final = "messaging.destination.template"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
MESSAGING_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
MESSAGING_DELIVERY_TAG: Final = "messaging.rabbitmq.message.delivery_tag"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
ERROR_TYPE: Final = "error.type"

# Not in the conventions: the pattern is that of the Java instrumentation.
CAPTURED_HEADER_PREFIX: Final = "messaging.header."

# Keys of conventions before 1.17, which OTEL_SEMCONV_STABILITY_OPT_IN=messaging/dup adds.
LEGACY_DESTINATION: Final = "messaging.destination"
LEGACY_OPERATION: Final = "messaging.operation"
LEGACY_TEMPORARY: Final = "messaging.temp_destination"
LEGACY_CONVERSATION_ID: Final = "messaging.conversation_id"
LEGACY_PEER_NAME: Final = "net.peer.name"
LEGACY_PEER_PORT: Final = "net.peer.port"

# Metrics of the conventions.
METRIC_OPERATION_DURATION: Final = "messaging.client.operation.duration"
METRIC_PROCESS_DURATION: Final = "messaging.process.duration"
METRIC_SENT: Final = "messaging.client.sent.messages"
METRIC_CONSUMED: Final = "messaging.client.consumed.messages"

# Metrics of ours.
METRIC_OUTCOMES: Final = "waybill.deliveries"
METRIC_ATTEMPTS: Final = "waybill.attempts"
METRIC_REMAINING: Final = "waybill.deadline.remaining"
METRIC_HELD: Final = "waybill.deliveries.held"
METRIC_RUNNING: Final = "waybill.deliveries.running"
METRIC_CONFIRM_DURATION: Final = "waybill.confirm.duration"
METRIC_UNCONFIRMED: Final = "waybill.copies.unconfirmed"
METRIC_BREAKER_CALLS: Final = "waybill.breaker.calls"
METRIC_BREAKER_STATE: Final = "waybill.breaker.state"
METRIC_HEADERS_INVALID: Final = "waybill.headers.invalid"
METRIC_CLOCK_SKEW: Final = "waybill.clock_skew"

# Our own attributes and span events.
ATTEMPT: Final = "waybill.attempt"
OUTCOME: Final = "waybill.outcome"
REASON: Final = "waybill.reason"
REQUEST_ID: Final = "waybill.request_id"
DEADLINE_REMAINING: Final = "waybill.deadline_remaining_ms"
DELAY: Final = "waybill.delay_ms"
QUEUE: Final = "waybill.queue"
HEADER: Final = "waybill.header"
HELD: Final = "waybill.held_ms"
FALLBACK: Final = "waybill.fallback"
LIMIT: Final = "waybill.limit"
BREAKER_NAME: Final = "waybill.breaker.name"
BREAKER_STATE: Final = "waybill.breaker.state"
BREAKER_OUTCOME: Final = "waybill.breaker.outcome"
BREAKER_PREVIOUS_STATE: Final = "waybill.breaker.previous_state"
BREAKER_TRIGGER: Final = "waybill.breaker.trigger"
EVENT_BREAKER: Final = "waybill.breaker"

# Environment.
ENV_POLICIES: Final = "OTEL_WAYBILL_POLICIES"
ENV_SETTLE_SPANS: Final = "OTEL_WAYBILL_SETTLE_SPANS"
ENV_METRICS: Final = "OTEL_WAYBILL_METRICS"
ENV_PARENT: Final = "OTEL_WAYBILL_PARENT"
ENV_CAPTURE_HEADERS: Final = "OTEL_WAYBILL_CAPTURE_HEADERS"
ENV_STABILITY: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
ENV_EXCEPTIONS: Final = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"
