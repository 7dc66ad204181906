"""The errors of the service, with their google.rpc error details unpacked.

No error holds an identity value or an attribute value: the service sends none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CURSOR_REASONS = frozenset({"CURSOR_EXPIRED", "CURSOR_FOREIGN", "CURSOR_IN_FUTURE", "CURSOR_MALFORMED"})

_Detail = TypeVar("_Detail", bound=Message)


class FieldViolation(NamedTuple):
    """A field of the request that is wrong, and why."""

    field: str
    description: str


class CameoError(Exception):
    """The error of a call, of one key of a batch, or of one record of an import."""

    code: grpc.StatusCode
    message: str
    reason: str
    """A name of `ErrorReason` without its prefix, such as `ETAG_MISMATCH`. Empty if the service was not reached."""
    metadata: Mapping[str, str]
    """Details of the reason, such as `owner_mpid`: see `error_reason.proto`."""
    field_violations: Sequence[FieldViolation]
    """The fields of the request that are wrong, and why."""
    retry_delay: timedelta | None
    """How long the service asks the caller to wait before a retry. None if it does not."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_delay: timedelta | None = None,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = metadata or {}
        self.field_violations = field_violations
        self.retry_delay = retry_delay

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed: the service could not be reached, or it asked for a retry."""
        return self.code is grpc.StatusCode.UNAVAILABLE or self.retry_delay is not None


class CursorRefused(CameoError):
    """A stream cannot resume from the cursor.

    A retry does not help, and starting elsewhere would silently lose events. So the application has to decide. Usually
    it rebuilds its data, and starts again from `earliest` with an empty cursor store.
    """


class SubscriptionTakenOver(CameoError):
    """A newer stream reads the durable subscription, or its place or its settings were changed.

    It is not retried: two readers that took the subscription from each other in turn would both make no progress.
    """


def translate(rpc_error: grpc.RpcError) -> CameoError:
    """Translates an exception of grpcio."""
    return _error(rpc_error.code(), rpc_error.details() or "", _status(rpc_error))


def explain(status: status_pb2.Status) -> CameoError:
    """Translates a status inside a response: that of a key of a batch, or of a record of an import."""
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status)


def _error(code: grpc.StatusCode, message: str, status: status_pb2.Status) -> CameoError:
    info = _detail(status, error_details_pb2.ErrorInfo)
    bad_request = _detail(status, error_details_pb2.BadRequest)
    retry = _detail(status, error_details_pb2.RetryInfo)
    return _kind(info.reason)(
        code,
        message,
        reason=info.reason,
        metadata=dict(info.metadata),
        field_violations=[FieldViolation(found.field, found.description) for found in bad_request.field_violations],
        retry_delay=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


def _kind(reason: str) -> type[CameoError]:
    if reason == "SUBSCRIPTION_TAKEN_OVER":
        return SubscriptionTakenOver
    return CursorRefused if reason in _CURSOR_REASONS else CameoError


def _status(rpc_error: grpc.RpcError) -> status_pb2.Status:
    try:
        return rpc_status.from_call(rpc_error) or status_pb2.Status()
    except ValueError:  # The details contradict the status, which a proxy may have changed. They are ignored.
        return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """The detail of this kind; an empty one if there is none."""
    detail = kind()
    for packed in status.details:
        packed.Unpack(detail)  # Does nothing if it is of another kind.
    return detail
