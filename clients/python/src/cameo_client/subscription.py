"""Every change, in order, across restarts of the client and the server.

- The cursor of an event is stored after the event was handled. A program that dies in between gets the event again.
- The cursors of all other messages are stored too. A cursor means that nothing before it is missing, so a subscriber
  whose filter rarely matches does not fall behind the log.
- A stream that breaks is opened again after the last cursor. If it cannot resume, it raises rather than skip events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cameo.v1.event_pb2 import Event
from cameo.v1.event_service_pb2 import SubscribeRequest
from cameo.v1.event_service_pb2_grpc import EventServiceStub

from .cursors import CursorStore
from .streams import Streams


class Delivery(NamedTuple):
    """An event, and the cursor to resume from after the event is handled."""

    event: Event
    cursor: str


class Subscription(Streams):
    """An endless iterable of deliveries. With `until_caught_up`, it ends at the head of the log.

    Asking for the next delivery confirms that the last one is handled. So `break` leaves the last delivery unhandled,
    and it arrives again. To leave the loop with the last delivery handled, call `stop()` and let the loop continue.

    Iterating raises:
        CursorRefused: the stream cannot resume from the stored cursor.
        CameoError: the request was refused, or the stream failed with an error that a new stream does not fix.
    """

    def __init__(self, events: EventServiceStub, request: SubscribeRequest, store: CursorStore | None = None) -> None:
        """`request` decides where to start if no cursor is stored. Without a store, every run starts there."""
        super().__init__(events, request)
        self._store = store
        self._cursor: str | None = None

    def __iter__(self) -> Iterator[Delivery]:
        if self._store is not None:
            self._cursor = self._store.load()
        for message in self._messages():
            if message.HasField("event"):
                yield Delivery(message.event, message.cursor)
            self._advance(message.cursor)

    def _next_request(self) -> SubscribeRequest:
        request = SubscribeRequest()
        request.CopyFrom(self._request)
        if self._cursor is not None:
            request.cursor = self._cursor  # Replaces any other start.
        return request

    def _advance(self, cursor: str) -> None:
        if cursor == self._cursor:
            return  # Heartbeats of a quiet workspace are not written.
        if self._store is not None:
            self._store.save(cursor)
        self._cursor = cursor
