"""Streams that are opened again when they break."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import grpc

from cameo.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from cameo.v1.event_service_pb2_grpc import EventServiceStub

from .errors import CameoError, translate
from .retry import Backoff, is_curable

_log = logging.getLogger(__name__)


class Streams:
    """The consecutive streams of a subscription."""

    def __init__(self, events: EventServiceStub, request: SubscribeRequest) -> None:
        self._events = events
        self._request = request
        self._call: grpc.Call | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends the iteration, from any thread: at once if it is waiting, otherwise after the current delivery."""
        self._stopped.set()
        self._close()

    def _next_request(self) -> SubscribeRequest:
        """The request that opens the next stream."""
        return self._request

    def _may_open_again(self, ended: CameoError) -> bool:
        """Whether a stream that was open and ended so is opened again, although one that is refused so is not."""
        return ended.code is grpc.StatusCode.UNAUTHENTICATED  # Its token expired. The next presents the current one.

    def _messages(self) -> Iterator[SubscribeResponse]:
        """The messages of consecutive streams. Each stream starts where the previous one broke."""
        backoff = Backoff()
        wait = 0.0
        while not self._stopped.wait(wait):
            broken, was_open = None, False
            try:
                for message in self._open():
                    was_open = True
                    if not message.HasField("opened"):
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
                if not is_curable(broken) and not (was_open and self._may_open_again(broken)):
                    raise broken from rpc_error
            finally:
                self._close()
            wait = backoff.next(broken.retry_delay if broken else None)
            _log.info("the stream broke (%s); opening it again in %.1f s", broken or "it just ended", wait)

    def _open(self) -> Iterator[SubscribeResponse]:
        stream = self._call = self._events.Subscribe(self._next_request())
        if self._stopped.is_set():  # `stop` was called before it could see this stream.
            stream.cancel()
        return stream

    def _close(self) -> None:
        if self._call is not None:
            self._call.cancel()
