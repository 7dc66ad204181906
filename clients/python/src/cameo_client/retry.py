"""Retries: which calls are retried, and how long to wait."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import grpc

from .errors import CameoError, translate

_FIRST_SECONDS = 0.1
_LONGEST_SECONDS = 10.0

# Without a reason: a proxy sends them, or a connection broke.
_BROKEN = frozenset(
    {grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
)
# These pass, with or without a RetryInfo. If a handler took too long (SUBSCRIBER_STALLED), it has finished by now.
_PASSING = frozenset({"SUBSCRIBER_STALLED", "QUOTA_EXCEEDED", "OVERLOADED", "RATE_LIMITED", "STORAGE_FULL"})

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Backoff:
    """Exponential backoff with full jitter, so that clients that lost the server together do not all return at once."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._ceiling = _FIRST_SECONDS

    def next(self, at_least: timedelta | None = None) -> float:
        """Returns the seconds to wait before the next attempt, and doubles the limit of the jitter."""
        jitter = random.uniform(0, self._ceiling)
        self._ceiling = min(2 * self._ceiling, _LONGEST_SECONDS)
        return jitter + (at_least.total_seconds() if at_least else 0.0)


def is_curable(error: CameoError) -> bool:
    """Whether a new stream may succeed: see the table of docs/subscriptions.md."""
    is_broken = not error.reason and error.code in _BROKEN
    return error.is_transient or is_broken or error.reason in _PASSING


def call(method: Callable[..., _Response], request: _Request, timeout: float) -> _Response:
    """Calls a unary method, and retries transient errors for at most `timeout` seconds.

    The request must be safe to repeat: a read, or a write with a `request_id`.

    Raises:
        CameoError: the error of the last attempt.
    """
    deadline = time.monotonic() + timeout
    backoff = Backoff()
    while True:
        try:
            return method(request, timeout=deadline - time.monotonic())
        except grpc.RpcError as rpc_error:
            error = translate(rpc_error)
            wait = backoff.next(error.retry_delay)
            if not error.is_transient or time.monotonic() + wait >= deadline:
                raise error from rpc_error
        time.sleep(wait)
