"""A durable subscription: the server keeps the place, and acknowledgements move it.

- A stream that breaks is opened again. It continues after the last delivery, in this process, or after the
  acknowledged place, in a new one.
- What was acknowledged is never delivered again, unless a seek moves the place back. What was not is never lost.
- Acknowledgements carry the number of the stream. So of two readers of one subscription only the newer one can move
  the place, and the older one ends with `SubscriptionTakenOver`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from cameo.v1.event_pb2 import Event
from cameo.v1.event_service_pb2 import AcknowledgeRequest, Opened, SubscribeRequest, SubscribeResponse
from cameo.v1.event_service_pb2_grpc import EventServiceStub
from cameo.v1.profile_pb2 import Profile

from .errors import CameoError, SubscriptionTakenOver, translate
from .retry import Backoff, is_curable
from .streams import Streams

_log = logging.getLogger(__name__)

_ATTEMPT_SECONDS = 10.0

# The order of a stream: the profiles of a snapshot as of a sequence by their mpids, its end, the events after it.
_Position = tuple[int, int, int]
_BEFORE_EVERY_MPID = -(2**63) - 1
_NOWHERE: _Position = (0, 0, _BEFORE_EVERY_MPID)


@dataclass(frozen=True)
class DurableDelivery:
    """What a durable subscription delivers: an event, a profile of a snapshot, or the end of a snapshot."""

    cursor: str
    event: Event | None = None
    snapshot_profile: Profile | None = None
    is_snapshot_complete: bool = False
    """Whether every profile of the snapshot was delivered. A copy may now remove what the snapshot did not have."""
    snapshot_sequence: int | None = None
    """The sequence of the event as of which the snapshot was taken. None for an event.

    A snapshot that breaks off goes on, or another begins, as of a later event: after retention overtook the first one,
    or after a seek. The profiles that only the first one had do not count then.
    """
    position: _Position = field(default=(0, 0, 0), repr=False)
    """Where it stands in the stream. For `DurableSubscription`."""


class DurableSubscription(Streams):
    """An endless iterable of deliveries. With `until_caught_up`, it ends at the head of the log.

    While it is iterated, no delivery repeats, unless a seek moved the place back. A new iteration, as after a restart
    of the program, starts after what was acknowledged. Any thread may acknowledge.

    Iterating and acknowledging raise:
        SubscriptionTakenOver: a newer stream reads the subscription, or its place or its settings were changed.
        CursorRefused: the log no longer holds what follows the acknowledged place (CURSOR_EXPIRED). The subscription
            fails then unless its `on_expired` says otherwise. `Client.seek_subscription` repairs it.
        CameoError: the request was refused, or the stream failed with an error that a new stream does not fix.
    """

    def __init__(self, events: EventServiceStub, request: SubscribeRequest) -> None:
        super().__init__(events, request)
        self._changed = threading.Condition()
        # The condition guards what follows.
        self._is_settled = True  # Whether the stream has sent again what was delivered before it was opened.
        self._stream = 0  # Its number.
        self._began_after = 0  # The sequence that its first message names: if a snapshot comes first, it is as of that.
        self._passed = ""  # The last cursor that was acknowledged on it.
        self._delivered = _NOWHERE  # The last delivery, or where the stream began if that is later.
        self._acknowledged = _NOWHERE  # The same of what was acknowledged.

    def __iter__(self) -> Iterator[DurableDelivery]:
        with self._changed:
            self._delivered = self._acknowledged = _NOWHERE
        try:
            for message in self._messages():
                delivery = self._take(message)
                if delivery is not None:
                    yield delivery
        finally:
            self._settle()  # So that no acknowledgement waits for a stream that never comes.

    def acknowledge(self, delivery: DurableDelivery) -> None:
        """Acknowledges a delivery and everything before it. When this returns, the place is on disk.

        While the service cannot be reached or its disk is full, this waits and tries again until `stop` is called.
        If a seek moved the place back meanwhile, this does nothing: the delivery comes again.
        """
        self._acknowledge(delivery, [])

    def skip(self, delivery: DurableDelivery, reason: str) -> None:
        """Gives up on an event: acknowledges it and everything before it, and lists it as skipped.

        The reason should hold no personal data: the service keeps it. `Client.list_skipped_events` returns it. After a
        seek back to before the event this does nothing: the event comes again.
        """
        if delivery.event is None:
            raise ValueError("only events can be skipped")
        self._acknowledge(delivery, [AcknowledgeRequest.Skip(sequence=delivery.event.sequence, reason=reason)])

    def stop(self) -> None:
        """Ends the iteration, from any thread: at once if it is waiting, otherwise after the current delivery.

        What is acknowledged after that is tried once.
        """
        super().stop()

    def _next_request(self) -> SubscribeRequest:
        with self._changed:
            self._is_settled = False
        return self._request

    def _may_open_again(self, ended: CameoError) -> bool:
        """Also if retention overtook the stream: then `on_expired` decides whether there is another, and where."""
        return ended.reason == "CURSOR_EXPIRED" or super()._may_open_again(ended)

    def _take(self, message: SubscribeResponse) -> DurableDelivery | None:
        """Returns what to deliver of a message: nothing if it was delivered by an earlier stream."""
        if message.HasField("opened"):
            self._begin(message.opened)
            return None
        delivery = _delivery(message, self._began_after)
        if delivery is None:  # Everything before it has been sent.
            self._settle()
            self._pass(message.cursor)
            return None
        with self._changed:
            is_new = delivery.position > self._delivered
            if is_new:
                self._delivered = delivery.position
        if is_new or delivery.position == self._delivered:
            self._settle()
        return delivery if is_new else None

    def _begin(self, opened: Opened) -> None:
        start = _start(opened)
        with self._changed:
            self._stream, self._began_after, self._passed = opened.stream, opened.after_sequence, ""
            if _starts_anew(start, self._acknowledged):
                self._delivered = _NOWHERE
            self._acknowledged = start
            if start >= self._delivered:
                self._delivered = start
                self._is_settled = True
                self._changed.notify_all()

    def _settle(self) -> None:
        with self._changed:
            self._is_settled = True
            self._changed.notify_all()

    def _pass(self, cursor: str) -> None:
        """Moves the place past events that do not match, so that the log need not be held for them.

        Only if everything that was delivered is acknowledged. If it fails, the next heartbeat tries again.
        """
        with self._changed:
            if self._acknowledged != self._delivered or cursor == self._passed:
                return
            self._passed = cursor
            stream = self._stream
        try:
            self._events.Acknowledge(self._acknowledgement(stream, cursor, []), timeout=_ATTEMPT_SECONDS)
        except grpc.RpcError as rpc_error:
            self._passed = ""
            _log.info("the place was not moved past what does not match (%s)", translate(rpc_error))

    def _acknowledge(self, delivery: DurableDelivery, skipped: list[AcknowledgeRequest.Skip]) -> None:
        backoff = Backoff()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_settled)
                stream = self._stream
                if stream and delivery.position > self._delivered:
                    return  # A seek moved the place back, and the delivery comes again.
            request = self._acknowledgement(stream, delivery.cursor, skipped)
            try:
                self._events.Acknowledge(request, timeout=_ATTEMPT_SECONDS)
                break
            except grpc.RpcError as rpc_error:
                error = translate(rpc_error)
                if not self._may_repeat(error, stream):
                    raise error from rpc_error
            wait = backoff.next(error.retry_delay)
            _log.info("an acknowledgement failed (%s); trying again in %.1f s", error, wait)
            self._stopped.wait(wait)
        with self._changed:
            if self._acknowledged < delivery.position <= self._delivered:
                self._acknowledged, self._passed = delivery.position, delivery.cursor

    def _may_repeat(self, error: CameoError, stream: int) -> bool:
        if isinstance(error, SubscriptionTakenOver):
            with self._changed:  # This object may have opened a new stream in between.
                self._changed.wait_for(lambda: self._is_settled)
                return self._stream != stream
        may_succeed = is_curable(error) or error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        return may_succeed and not self._stopped.is_set()

    def _acknowledgement(
        self, stream: int, cursor: str, skipped: list[AcknowledgeRequest.Skip]
    ) -> AcknowledgeRequest:
        return AcknowledgeRequest(
            workspace=self._request.workspace,
            subscription=self._request.subscription,
            stream=stream,
            cursor=cursor,
            skipped=skipped,
        )


def _delivery(message: SubscribeResponse, snapshot_as_of: int) -> DurableDelivery | None:
    match message.WhichOneof("message"):
        case "event":
            position = (message.event.sequence, 1, 0)
            return DurableDelivery(message.cursor, event=message.event, position=position)
        case "snapshot_profile":
            position = (snapshot_as_of, 0, message.snapshot_profile.mpid)
            return DurableDelivery(
                message.cursor,
                snapshot_profile=message.snapshot_profile,
                snapshot_sequence=snapshot_as_of,
                position=position,
            )
        case "snapshot_complete":
            sequence = message.snapshot_complete.sequence
            return DurableDelivery(
                message.cursor, is_snapshot_complete=True, snapshot_sequence=sequence, position=(sequence, 1, 0)
            )
        case _:
            return None


def _start(opened: Opened) -> _Position:
    """Where a stream starts. Inside a snapshot, this is the start of the snapshot."""
    return (opened.after_sequence, 0, _BEFORE_EVERY_MPID) if opened.snapshot else (opened.after_sequence, 1, 0)


def _starts_anew(start: _Position, acknowledged: _Position) -> bool:
    """Whether a seek moved the place back while no stream was open, or another snapshot begins. What follows is then
    delivered, whatever was delivered before."""
    is_in_snapshot = start[1] == 0
    return start[:2] < acknowledged[:2] or (is_in_snapshot and start[:2] > acknowledged[:2])
