from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import grpc
import pytest

from cameo_client import CameoError, Client, Identity, Key, ProfilePatch, explain
from harness import DEADLINE, Reader, Server, count_up, setting

ADA = Identity(type="customer_id", value="mxr15")
RECORDS = 2_000

Record = tuple[Key, ProfilePatch]


def records(count: int = RECORDS) -> Iterator[Record]:
    for mpid in range(1, count + 1):
        yield mpid, setting(number=mpid)


def test_an_import_returns_counts_and_refusals(client: Client) -> None:
    position = 1_234

    def with_one_refused() -> Iterator[Record]:
        for at, (mpid, patch) in enumerate(records()):
            if at == position:
                patch.add_identities.append(ADA)
            yield mpid, patch

    owner = client.update_profile(ADA, setting(plan="pro"), allow_missing=True).profile.mpid
    for created, unchanged in ((RECORDS - 1, 0), (0, RECORDS - 1)):
        answer = client.import_profiles(with_one_refused())
        assert (answer.created, answer.updated, answer.unchanged) == (created, 0, unchanged)
        assert answer.refused == len(answer.refusals) == 1
        assert answer.refusals[0].position == position
        error = explain(answer.refusals[0].error)
        assert error.code is grpc.StatusCode.ALREADY_EXISTS
        assert error.reason == "IDENTITY_TAKEN"
        assert error.metadata == {"owner_mpid": str(owner), "identity_type": "customer_id"}

    assert client.get_profile(RECORDS, min_cursor=answer.cursor).user_attributes["number"] == RECORDS
    _, refused, _ = client.batch_get_profiles([position, position + 1, position + 2])
    assert isinstance(refused, CameoError), "a record that is refused creates nothing"


def test_an_import_creates_a_profile_that_is_named_by_an_identity(client: Client) -> None:
    answer = client.import_profiles([(ADA, setting(plan="pro")), (ADA, setting(plan="free"))])
    assert (answer.created, answer.updated) == (1, 1)
    assert client.get_profile(ADA).user_attributes["plan"] == "free"


def test_records_are_consumed_as_the_service_reads_them(client: Client) -> None:
    reader = Reader(client.subscribe(earliest=True))
    reader.start()

    def waiting() -> Iterator[Record]:
        for at, record in enumerate(records()):
            if at == RECORDS // 2:
                reader.wait_for(at)  # This would fail if all records were collected before the first is sent.
            yield record

    assert client.import_profiles(waiting()).created == RECORDS
    reader.wait_for(RECORDS)
    reader.end()
    assert [event.mpid for event, _ in reader.deliveries] == list(range(1, RECORDS + 1))


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_an_exception_of_the_records_is_raised(client: Client, kind: type[BaseException]) -> None:
    """This includes SystemExit, with which grpcio would hang."""

    def broken() -> Iterator[Record]:
        yield from records(3)
        raise kind("no fourth")

    with pytest.raises(kind, match="no fourth"):
        client.import_profiles(broken())
    assert [profile.mpid for profile in client.list_profiles()] == [1, 2, 3]


def test_a_refused_import_has_its_reason(client: Client) -> None:
    client.workspace = "no slashes"
    with pytest.raises(CameoError) as refused:
        client.import_profiles(records())
    assert refused.value.reason == "FIELD_INVALID"
    assert [violation.field for violation in refused.value.field_violations] == ["workspace"]
    assert refused.value.metadata == {"records": "0"}


def test_an_import_fails_after_its_timeout(client: Client) -> None:
    over = threading.Event()

    def stuck() -> Iterator[Record]:
        yield from records(3)
        over.wait(DEADLINE)

    try:
        with pytest.raises(CameoError) as refused:
            client.import_profiles(stuck(), timeout=0.5)
    finally:
        over.set()
    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_import_that_broke_off_applied_whole_records_and_can_be_repeated(server: Server, client: Client) -> None:
    def killing() -> Iterator[Record]:
        for at, record in enumerate(records()):
            if at == RECORDS // 2:
                next(iter(client.subscribe(earliest=True)))  # At least one record is applied.
                server.stop(signal.SIGKILL)
            yield record

    with pytest.raises(CameoError) as broken:
        client.import_profiles(killing())
    assert broken.value.code is grpc.StatusCode.UNAVAILABLE
    server.start()

    applied = list(client.list_profiles())
    assert 1 <= len(applied) <= RECORDS // 2
    assert [profile.mpid for profile in applied] == list(range(1, len(applied) + 1))
    assert all(profile.user_attributes["number"] == profile.mpid for profile in applied)
    again = client.import_profiles(records())
    assert (again.created, again.unchanged) == (RECORDS - len(applied), len(applied))


def test_a_subscriber_can_leave_out_a_silent_import(client: Client) -> None:
    count_up(client, 42)
    client.import_profiles(records(3), silent=True)
    client.import_profiles([(43, setting(plan="pro"))])

    everything = [event for event, _ in client.subscribe(earliest=True, until_caught_up=True)]
    assert [event.mpid for event in everything] == [42, 1, 2, 3, 43]
    assert [event.silent for event in everything] == [False, True, True, True, False]
    heard = client.subscribe(earliest=True, until_caught_up=True, omit_silent=True)
    assert [event for event, _ in heard] == [everything[0], everything[-1]]
