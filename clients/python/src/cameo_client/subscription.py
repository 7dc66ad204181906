"""Every change, in order, across restarts of either side.

- An event's cursor is stored after the event was handled, never before: whoever dies in between gets the event again.
- Every other message's cursor is stored as well. It says that nothing before it is missing, so a subscriber whose
  filter rarely matches does not fall behind the log.
- A stream that breaks is opened again after the last cursor. One that cannot resume raises; it never skips.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import NamedTuple

import grpc

from cameo.v1.event_pb2 import Event
from cameo.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from cameo.v1.event_service_pb2_grpc import EventServiceStub

from .cursors import CursorStore
from .errors import CameoError, translate
from .retry import Backoff

_log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """An event, and the cursor to resume after once it is handled."""

    event: Event
    cursor: str


class Subscription:
    """An endless iterable of deliveries; with `until_caught_up` it ends at the head of the log.

    To ask for the next delivery is to say that the last one is handled. So `break` leaves the last one unhandled, and
    it comes again; `stop()` and one more turn of the loop does not.

    Iterating raises:
        CursorRefused: the stored cursor cannot be resumed from.
        CameoError: the request was refused, or the stream failed in a way that opening it again does not cure.
    """

    def __init__(self, events: EventServiceStub, request: SubscribeRequest, store: CursorStore | None = None) -> None:
        """`request` says where to start if there is no cursor yet. Without a store, a restart starts there again."""
        self._events = events
        self._request = request
        self._store = store
        self._cursor: str | None = None
        self._stream: grpc.Call | None = None
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Delivery]:
        if self._store is not None:
            self._cursor = self._store.load()
        for message in self._messages():
            if message.HasField("event"):
                yield Delivery(message.event, message.cursor)
            self._advance(message.cursor)

    def stop(self) -> None:
        """Ends the iteration, from any thread: at once if it waits, else when the delivery in hand is handled."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.cancel()

    def _messages(self) -> Iterator[SubscribeResponse]:
        """The messages of one stream after another, each opened where the one before broke off."""
        backoff = Backoff()
        wait = 0.0
        while not self._stopped.wait(wait):
            broken = None
            try:
                for message in self._open():
                    backoff.reset()
                    yield message
                    if self._stopped.is_set():
                        return
                if self._request.until_caught_up:
                    return
            except grpc.RpcError as rpc_error:
                if self._stopped.is_set():
                    return
                broken = translate(rpc_error)
                if not _is_curable(broken):
                    raise broken from rpc_error
            finally:
                self._close()
            wait = backoff.next(broken.retry_delay if broken else None)
            _log.info("the stream broke off (%s); opening it again in %.1f s", broken or "it just ended", wait)

    def _open(self) -> Iterator[SubscribeResponse]:
        request = SubscribeRequest()
        request.CopyFrom(self._request)
        if self._cursor is not None:
            request.cursor = self._cursor  # Takes the place of any other start.
        stream = self._stream = self._events.Subscribe(request)
        if self._stopped.is_set():  # By somebody who could not see the stream yet.
            stream.cancel()
        return stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def _advance(self, cursor: str) -> None:
        if cursor == self._cursor:
            return  # A quiet workspace costs no write.
        if self._store is not None:
            self._store.save(cursor)
        self._cursor = cursor


def _is_curable(error: CameoError) -> bool:
    """Whether to open the stream again. A handler that took too long is no reason to give up: it is done now."""
    return error.is_transient or error.reason == "SUBSCRIBER_STALLED"
