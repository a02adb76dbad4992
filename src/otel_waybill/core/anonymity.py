"""Names that some program made up for one queue: they say nothing, and there is no end to them."""

import re
from functools import lru_cache
from typing import Final

# The first line is the rule of the OpenTelemetry Java instrumentation (broker, Spring AMQP, Spring Cloud
# Stream, bare UUID); aio-pika's ``amq_``, in 9.0 ``amq_0x``, and reply addresses of direct reply-to are as
# unbounded and missing there.
_ANONYMOUS: Final = re.compile(
    r"(amq\.gen-|spring\.gen-).*|.*\.anonymous\.[\w-]{22}|HEX{8}(-HEX{4}){3}-HEX{12}"
    r"|amq_(HEX{32}|0xHEX{1,32})|amq\.rabbitmq\.reply-to\..*".replace("HEX", "[0-9a-fA-F]"),
    re.ASCII | re.DOTALL,
)


@lru_cache(1024)  # it is asked several times for each delivery, and names that stay are few
def is_anonymous(name: str) -> bool:
    """Return whether *name*, of a queue or a routing key, was generated for one use."""
    return _ANONYMOUS.fullmatch(name) is not None
