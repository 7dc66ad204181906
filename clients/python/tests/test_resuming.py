"""Responses that a healthy server does not send on demand, from a server that follows a script."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from cameo.v1.event_pb2 import Event
from cameo.v1.event_service_pb2 import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    Heartbeat,
    Opened,
    SnapshotComplete,
    SubscribeRequest,
    SubscribeResponse,
)
from cameo.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from cameo_client import (
    CameoError,
    Client,
    CursorRefused,
    DurableDelivery,
    DurableSubscription,
    Profile,
    SubscriptionTakenOver,
    connect,
)

RETRY_DELAY = timedelta(milliseconds=300)
BROKEN = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="as scripted")

Stream = list[SubscribeResponse | Status]


def event(sequence: int) -> SubscribeResponse:
    return SubscribeResponse(cursor=f"after-{sequence}", event=Event(sequence=sequence))


def heartbeat(sequence: int) -> SubscribeResponse:
    return SubscribeResponse(cursor=f"after-{sequence}", heartbeat=Heartbeat())


def snapshot_of(sequence: int, *mpids: int) -> Stream:
    """The messages of a snapshot as of an event, up to its end."""
    profiles = [SubscribeResponse(cursor=f"at-{mpid}", snapshot_profile=Profile(mpid=mpid)) for mpid in mpids]
    complete = SnapshotComplete(sequence=sequence)
    return [*profiles, SubscribeResponse(cursor=f"after-{sequence}", snapshot_complete=complete)]


SEVENTH, EIGHTH = event(7), event(8)


def refusal(code: grpc.StatusCode, reason: str, *others: Message, **metadata: str) -> Status:
    status = Status(code=code.value[0], message="as scripted")
    for detail in (ErrorInfo(reason=reason, domain="cameo", metadata=metadata), *others):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@dataclass
class Script(EventServiceServicer):
    """The streams to send, one after another, and the requests that opened them."""

    streams: list[Stream]
    requests: list[SubscribeRequest] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    refusals: list[Status] = field(default_factory=list)
    openings_refused: dict[int, Status] = field(default_factory=dict)
    """The streams that are refused instead, by their number."""
    openings: dict[int, Opened] = field(default_factory=dict)
    """Where streams begin, by their number. The others begin with the first event."""
    acknowledgements: list[tuple[int, str]] = field(default_factory=list)
    may_respond: threading.Event = field(default_factory=threading.Event)
    """Whether acknowledgements are responded to."""

    def Subscribe(self, request: SubscribeRequest, context: grpc.ServicerContext) -> Iterator[SubscribeResponse]:
        if len(self.requests) == len(self.streams):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the script is over")
        stream = self.streams[len(self.requests)]
        self.requests.append(request)
        self.times.append(time.monotonic())
        if refused := self.openings_refused.get(len(self.requests)):
            context.abort_with_status(rpc_status.to_status(refused))
        opened = self.openings.get(len(self.requests), Opened())
        opened.stream = len(self.requests)
        yield SubscribeResponse(cursor=request.cursor or "began", opened=opened)
        for answer in stream:
            if isinstance(answer, Status):
                context.abort_with_status(rpc_status.to_status(answer))
            yield answer

    def Acknowledge(self, request: AcknowledgeRequest, context: grpc.ServicerContext) -> AcknowledgeResponse:
        self.acknowledgements.append((request.stream, request.cursor))
        self.may_respond.wait()
        if self.refusals:
            context.abort_with_status(rpc_status.to_status(self.refusals.pop()))
        return AcknowledgeResponse(acknowledged_cursor=request.cursor)


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script([])
    script.may_respond.set()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    add_EventServiceServicer_to_server(script, server)
    script.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield script
    script.may_respond.set()
    server.stop(grace=None).wait()


def sequences(script: Script) -> list[int]:
    """The sequences that a subscriber receives up to the eighth event."""
    got = []
    with connect(f"127.0.0.1:{script.port}") as channel:
        subscription = Client(channel, "acme/main/web").subscribe()
        for event, _ in subscription:
            got.append(event.sequence)
            if event.sequence == 8:
                subscription.stop()
    return got


def test_a_subscriber_waits_as_long_as_a_draining_server_asks(script: Script) -> None:
    delay = Duration()
    delay.FromTimedelta(RETRY_DELAY)
    draining = refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", RetryInfo(retry_delay=delay))
    script.streams = [[SEVENTH, draining], [EIGHTH]]
    assert sequences(script) == [7, 8]
    assert [request.cursor for request in script.requests] == ["", "after-7"]
    assert script.times[1] - script.times[0] >= RETRY_DELAY.total_seconds()


def test_a_subscriber_that_took_too_long_comes_back(script: Script) -> None:
    stalled = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "SUBSCRIBER_STALLED", cursor="after-7")
    script.streams = [[SEVENTH, stalled], [EIGHTH]]
    assert sequences(script) == [7, 8]
    assert script.requests[1].cursor == "after-7"


def test_a_stream_that_just_ends_is_opened_again(script: Script) -> None:
    script.streams = [[], [SEVENTH], [EIGHTH]]
    assert sequences(script) == [7, 8]
    assert [request.cursor for request in script.requests] == ["", "began", "after-7"]


def test_a_subscriber_that_fell_behind_the_log_gets_an_error(script: Script) -> None:
    expired = refusal(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED", oldest_sequence="1200")
    script.streams = [[SEVENTH, expired]]
    with pytest.raises(CursorRefused) as refused:
        sequences(script)
    assert refused.value.reason == "CURSOR_EXPIRED"
    assert refused.value.metadata == {"oldest_sequence": "1200"}
    assert len(script.requests) == 1, "it must not be retried"


CURABLE = [
    *[(grpc.StatusCode.UNAVAILABLE, reason) for reason in ("", "STREAM_TOO_OLD", "STORAGE_FAILED")],
    (grpc.StatusCode.UNAVAILABLE, "AUTHENTICATION_UNAVAILABLE"),
    *[(code, "") for code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)],
    (grpc.StatusCode.ABORTED, ""),
    *[(grpc.StatusCode.RESOURCE_EXHAUSTED, reason) for reason in ("SUBSCRIBER_STALLED", "QUOTA_EXCEEDED")],
    *[(grpc.StatusCode.RESOURCE_EXHAUSTED, reason) for reason in ("OVERLOADED", "RATE_LIMITED", "STORAGE_FULL")],
]
INCURABLE = [
    (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (grpc.StatusCode.DATA_LOSS, "RECORD_CORRUPT"),
    (grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND"),
    (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID"),
    (grpc.StatusCode.FAILED_PRECONDITION, "CURSOR_FOREIGN"),
    (grpc.StatusCode.INTERNAL, "INTERNAL"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, ""),  # A message that is too large for the client.
    (grpc.StatusCode.UNIMPLEMENTED, ""),
]


@pytest.mark.parametrize(("code", "reason"), CURABLE)
def test_a_stream_is_opened_again_if_that_may_help(script: Script, code: grpc.StatusCode, reason: str) -> None:
    """As docs/subscriptions.md says of each status, whether it ends a stream or refuses one."""
    broken = refusal(code, reason) if reason else Status(code=code.value[0])
    script.streams = [[SEVENTH, broken], [], [EIGHTH]]
    script.openings_refused = {2: broken}
    assert sequences(script) == [7, 8]
    assert [request.cursor for request in script.requests] == ["", "after-7", "after-7"]


@pytest.mark.parametrize(("code", "reason"), INCURABLE)
def test_a_stream_is_not_opened_again_if_that_cannot_help(script: Script, code: grpc.StatusCode, reason: str) -> None:
    broken = refusal(code, reason) if reason else Status(code=code.value[0])
    script.streams = [[SEVENTH, broken], [EIGHTH]]
    with pytest.raises(CameoError) as ended:
        sequences(script)
    assert (ended.value.code, ended.value.reason) == (code, reason)
    assert len(script.requests) == 1


EXPIRED_TOKEN = refusal(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", cursor="after-7")


def test_a_subscriber_whose_token_expired_comes_back(script: Script) -> None:
    """The token of the next stream is asked for anew."""
    script.streams = [[SEVENTH, EXPIRED_TOKEN], [EIGHTH]]
    assert sequences(script) == [7, 8]
    assert [request.cursor for request in script.requests] == ["", "after-7"]


def test_a_subscriber_whose_token_is_refused_gets_an_error(script: Script) -> None:
    script.streams = [[SEVENTH, EXPIRED_TOKEN], []]
    script.openings_refused = {2: EXPIRED_TOKEN}
    with pytest.raises(CameoError) as refused:
        sequences(script)
    assert refused.value.reason == "UNAUTHENTICATED"
    assert len(script.requests) == 2, "it must not be retried"


def read_durably(script: Script) -> list[int]:
    """The sequences that a reader of a durable subscription receives. It acknowledges only the eighth event."""
    got = []
    with connect(f"127.0.0.1:{script.port}") as channel:
        subscription = Client(channel, "acme/main/web").subscription("crm")
        for delivery in subscription:
            got.append(delivery.event.sequence)
            if delivery.event.sequence == 8:
                subscription.acknowledge(delivery)
                subscription.stop()
    return got


@pytest.mark.parametrize(
    "broken",
    [
        refusal(grpc.StatusCode.UNAVAILABLE, "STREAM_TOO_OLD"),
        refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "SUBSCRIBER_STALLED"),
        refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL"),
        EXPIRED_TOKEN,
        Status(code=grpc.StatusCode.CANCELLED.value[0]),
        Status(code=grpc.StatusCode.ABORTED.value[0]),
    ],
    ids=["too old", "stalled", "storage full", "token expired", "cancelled", "aborted"],
)
def test_a_durable_reader_goes_on_after_a_break(script: Script, broken: Status) -> None:
    """The seventh event was not acknowledged, so it arrives again. It was delivered, so it is left out."""
    script.streams = [[SEVENTH, broken], [SEVENTH, EIGHTH]]
    assert read_durably(script) == [7, 8]
    assert script.acknowledgements == [(2, "after-8")]


def test_an_acknowledgement_is_repeated_until_it_is_on_disk(script: Script) -> None:
    delay = Duration()
    delay.FromTimedelta(RETRY_DELAY)
    overloaded = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", RetryInfo(retry_delay=delay))
    script.streams = [[SEVENTH, EIGHTH]]
    full = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")
    script.refusals = [overloaded, full, BROKEN]
    began = time.monotonic()
    assert read_durably(script) == [7, 8]
    assert script.acknowledgements == [(1, "after-8")] * 4
    assert time.monotonic() - began >= RETRY_DELAY.total_seconds()


def test_a_durable_reader_that_was_taken_over_does_not_come_back(script: Script) -> None:
    script.streams = [[SEVENTH, refusal(grpc.StatusCode.ABORTED, "SUBSCRIPTION_TAKEN_OVER")]]
    with pytest.raises(SubscriptionTakenOver):
        read_durably(script)
    assert len(script.requests) == 1


@contextmanager
def durable(script: Script) -> Iterator[DurableSubscription]:
    with connect(f"127.0.0.1:{script.port}") as channel:
        yield Client(channel, "acme/main/web").subscription("crm")


def name(delivery: DurableDelivery) -> str:
    if delivery.event is not None:
        return f"event {delivery.event.sequence}"
    return "complete" if delivery.is_snapshot_complete else f"profile {delivery.snapshot_profile.mpid}"


def names(script: Script, count: int) -> list[str]:
    """What a reader of a durable subscription receives, which acknowledges nothing."""
    with durable(script) as subscription:
        return [name(delivery) for delivery in islice(subscription, count)]


def test_a_seek_brings_back_what_was_acknowledged_before_this_iteration(script: Script) -> None:
    script.openings = {1: Opened(after_sequence=6)}
    script.streams = [[SEVENTH, BROKEN], [event(1), SEVENTH, EIGHTH]]
    assert names(script, 4) == ["event 7", "event 1", "event 7", "event 8"]


def test_a_seek_back_brings_back_what_a_seek_forward_passed_over(script: Script) -> None:
    script.openings = {2: Opened(after_sequence=6), 3: Opened(after_sequence=4)}
    script.streams = [[event(1), BROKEN], [SEVENTH, BROKEN], [event(5), SEVENTH, EIGHTH]]
    assert names(script, 5) == ["event 1", "event 7", "event 5", "event 7", "event 8"]


def test_a_place_that_moved_forward_repeats_nothing(script: Script) -> None:
    """The response to an acknowledgement was lost, or it was moved by a seek."""
    script.openings = {2: Opened(after_sequence=7)}
    script.streams = [[SEVENTH, EIGHTH, BROKEN], [EIGHTH, event(9)]]
    assert names(script, 3) == ["event 7", "event 8", "event 9"]


def test_a_seek_to_a_snapshot_brings_all_of_it(script: Script) -> None:
    """Also if it is as of an event that was delivered."""
    script.openings = {2: Opened(after_sequence=7, snapshot=True)}
    script.streams = [[SEVENTH, BROKEN], [*snapshot_of(7, -1, 1), EIGHTH]]
    assert names(script, 5) == ["event 7", "profile -1", "profile 1", "complete", "event 8"]


def test_a_snapshot_that_goes_on_repeats_nothing(script: Script) -> None:
    script.openings = {number: Opened(after_sequence=6, snapshot=True) for number in (1, 2, 3)}
    whole = [*snapshot_of(6, -(2**63), -1, 1), SEVENTH]
    script.streams = [[*whole[:2], BROKEN], [*whole, BROKEN], [*whole, EIGHTH]]
    expected = [f"profile {-(2**63)}", "profile -1", "profile 1", "complete", "event 7", "event 8"]
    assert names(script, 6) == expected


@pytest.mark.parametrize("place", [0, 8], ids=["back", "forward"])
def test_after_a_seek_the_place_moves_past_what_does_not_match(script: Script, place: int) -> None:
    script.openings = {1: Opened(after_sequence=6), 2: Opened(after_sequence=place)}
    script.streams = [[heartbeat(9), SEVENTH, BROKEN], [heartbeat(9), event(10)]]
    assert names(script, 2) == ["event 7", "event 10"]
    assert script.acknowledgements == [(1, "after-9"), (2, "after-9")]


def test_an_acknowledgement_from_before_a_seek_does_not_pass_what_the_seek_brings_back(script: Script) -> None:
    script.openings = {1: Opened(after_sequence=6)}
    script.streams = [[SEVENTH, BROKEN], [event(1), SEVENTH, EIGHTH]]
    with durable(script) as subscription:
        deliveries = iter(subscription)
        seventh, first = next(deliveries), next(deliveries)
        subscription.acknowledge(seventh)
        subscription.acknowledge(first)
        assert script.acknowledgements == [(2, "after-1")]
        subscription.acknowledge(next(deliveries))
    assert script.acknowledgements == [(2, "after-1"), (2, "after-7")]


def test_an_acknowledgement_that_a_seek_overtakes_lets_nothing_pass(script: Script) -> None:
    script.openings = {1: Opened(after_sequence=6)}
    script.streams = [[SEVENTH, BROKEN], [event(1), SEVENTH, heartbeat(9), event(10)]]
    script.may_respond.clear()
    with durable(script) as subscription:
        deliveries = iter(subscription)
        overtaken = threading.Thread(target=subscription.acknowledge, args=[next(deliveries)])
        overtaken.start()
        while not script.acknowledgements:
            pass
        assert name(next(deliveries)) == "event 1"
        script.may_respond.set()
        overtaken.join()
        assert [name(delivery) for delivery in islice(deliveries, 2)] == ["event 7", "event 10"]
    assert script.acknowledgements == [(1, "after-7")]


EXPIRED = refusal(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED", oldest_sequence="1200")


def test_a_durable_reader_that_retention_overtakes_goes_on_where_the_next_stream_begins(script: Script) -> None:
    """`on_expired` decides where that is, if any. Here it is a snapshot, which retention overtakes once more."""
    script.openings = {number: Opened(after_sequence=9 * number, snapshot=True) for number in (2, 3)}
    script.streams = [[SEVENTH, EXPIRED], [EXPIRED], [*snapshot_of(27, 1), event(28)]]
    assert names(script, 4) == ["event 7", "profile 1", "complete", "event 28"]


@pytest.mark.parametrize("refused", [1, 2])
def test_a_durable_reader_whose_place_has_expired_gets_an_error(script: Script, refused: int) -> None:
    script.streams = [[SEVENTH, EXPIRED], [EIGHTH]]
    script.openings_refused = {refused: EXPIRED}
    with pytest.raises(CursorRefused) as expired:
        names(script, 2)
    assert expired.value.reason == "CURSOR_EXPIRED"
    assert len(script.requests) == refused, "it must not be retried"


def test_pauses_grow_while_streams_end_as_soon_as_they_are_open(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a stream sends something else than that it is open."""
    longest_pauses = []
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest_pauses.append(longest) or 0.0)
    script.streams = [[], [], [], [SEVENTH], [EIGHTH]]
    assert sequences(script) == [7, 8]
    assert longest_pauses == [0.1, 0.2, 0.4, 0.1]
