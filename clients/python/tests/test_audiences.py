"""Audiences: their members, the ends of memberships, and the work of the service on them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cameo.v1.audience_pb2 import AUDIENCE_STATE_ACTIVE, AUDIENCE_STATE_DELETING
from cameo.v1.write_pb2 import WRITE_OUTCOME_DELETED, WRITE_OUTCOME_UNCHANGED, WRITE_OUTCOME_UPDATED
from cameo_client import CameoError, Client, EventFilter, Identity, explain
from harness import Reader, setting

BUYERS = 7
EMAIL = Identity(type="email", value="ada@example.com")


def create_profiles(client: Client, count: int) -> list[int]:
    for mpid in range(1, count + 1):
        patch = setting(number=mpid)
        if mpid == 1:
            patch.add_identities.append(EMAIL)
        client.update_profile(mpid, patch, allow_missing=True)
    return list(range(1, count + 1))


def exits(client: Client) -> list[int]:
    events = [event for event, _ in client.subscribe(earliest=True, until_caught_up=True)]
    return [event.mpid for event in events if BUYERS in event.exited_audience_ids]


def test_an_audience_is_registered_listed_and_found(client: Client) -> None:
    created = client.create_audience("Buyers", audience_id=BUYERS, description="bought something")
    assert (created.audience_id, created.name, created.state) == (BUYERS, "Buyers", AUDIENCE_STATE_ACTIVE)
    chosen = client.create_audience("Others")
    assert client.get_audience(BUYERS) == created
    assert list(client.list_audiences(page_size=1)) == sorted([created, chosen], key=lambda each: each.audience_id)

    with pytest.raises(CameoError) as refused:
        client.create_audience("Again", audience_id=BUYERS)
    assert refused.value.reason == "AUDIENCE_EXISTS"
    with pytest.raises(CameoError) as missing:
        client.get_audience(8)
    assert missing.value.reason == "AUDIENCE_NOT_FOUND"


def test_members_join_and_leave_in_one_write(client: Client) -> None:
    create_profiles(client, 3)
    client.create_audience("Buyers", audience_id=BUYERS)
    added = client.add_audience_members(BUYERS, [3, EMAIL, 404])
    assert [(result.mpid, result.outcome) for result in added.results[:2]] == [
        (3, WRITE_OUTCOME_UPDATED),
        (1, WRITE_OUTCOME_UPDATED),
    ]
    assert explain(added.results[2].error).reason == "PROFILE_NOT_FOUND"
    assert client.get_audience(BUYERS).member_count == 2
    assert [member.mpid for member in client.list_audience_members(BUYERS, page_size=1)] == [1, 3]
    assert [profile.mpid for profile in client.list_profiles(audience_id=BUYERS, page_size=1)] == [1, 3]
    assert client.get_profile(1, min_cursor=added.cursor).audience_memberships[0].audience_name == "Buyers"

    again = client.add_audience_members(BUYERS, [3])
    assert [result.outcome for result in again.results] == [WRITE_OUTCOME_UNCHANGED]
    removed = client.remove_audience_members(BUYERS, [3, 2])
    assert [result.outcome for result in removed.results] == [WRITE_OUTCOME_UPDATED, WRITE_OUTCOME_UNCHANGED]
    assert exits(client) == [3]


def test_a_membership_ends_with_an_event(client: Client) -> None:
    create_profiles(client, 2)
    client.create_audience("Buyers", audience_id=BUYERS)
    client.create_subscription("exits", start="earliest", filter=EventFilter(audience_ids=[BUYERS]))
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    client.add_audience_members(BUYERS, [1, 2], expire_time=soon)
    reader = Reader(client.subscription("exits"))
    reader.start()
    reader.wait_for(4)  # Two that joined, and two that left without a further call.
    reader.end()
    assert list(client.list_audience_members(BUYERS)) == []
    left = [delivery.event for delivery in reader.deliveries[2:]]
    assert [(list(event.exited_audience_ids), event.request_id) for event in left] == [([BUYERS], "")] * 2
    assert all(event.time.ToDatetime(timezone.utc) >= soon for event in left)


def test_a_deleted_audience_loses_its_members_in_the_background(client: Client) -> None:
    mpids = create_profiles(client, 20)
    client.create_audience("Buyers", audience_id=BUYERS)
    client.add_audience_members(BUYERS, mpids)
    deleted = client.delete_audience(BUYERS)
    assert deleted.outcome == WRITE_OUTCOME_DELETED
    assert not deleted.HasField("audience") or deleted.audience.state == AUDIENCE_STATE_DELETING

    reader = Reader(client.subscribe(earliest=True))
    reader.start()
    reader.wait_for(3 * len(mpids))
    reader.end()
    assert sorted(exits(client)) == mpids
    assert client.delete_audience(BUYERS, allow_missing=True).outcome in (
        WRITE_OUTCOME_UNCHANGED,
        WRITE_OUTCOME_DELETED,  # The last member has left, and the service is about to notice.
    )


def test_a_batch_of_members_is_never_split(client: Client) -> None:
    client.create_audience("Buyers", audience_id=BUYERS)
    with pytest.raises(CameoError) as refused:
        client.add_audience_members(BUYERS, range(1, 1_002))
    assert refused.value.reason == "LIMIT_EXCEEDED"
