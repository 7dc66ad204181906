"""Erased means erased, and exports for requests of access."""

from __future__ import annotations

import json

import pytest

from cameo.v1.write_pb2 import WRITE_OUTCOME_DELETED, WRITE_OUTCOME_ERASED, WRITE_OUTCOME_UNCHANGED
from cameo_client import CameoError, Client, Identity
from harness import setting

SECRET = "canary"
EMAIL = Identity(type="email", value=f"{SECRET}@example.com")


def create_person(client: Client) -> None:
    patch = setting(note=SECRET)
    patch.add_identities.append(EMAIL)
    client.update_profile(42, patch, allow_missing=True, request_id="creates-ada")
    client.update_profile(42, setting(note=f"{SECRET} again"))


def test_nothing_of_an_erased_person_can_be_read(client: Client) -> None:
    create_person(client)
    dry = client.erase_profile(EMAIL, validate_only=True)
    assert (dry.events, dry.cursor) == (2, "")

    erased = client.erase_profile(EMAIL)
    assert (erased.outcome, list(erased.mpids), erased.events) == (WRITE_OUTCOME_ERASED, [42], 2)
    events = [event for event, _ in client.subscribe(earliest=True, until_caught_up=True)]
    assert [(event.type, event.mpid) for event in events] == [("profile.erased", 42)] * 3
    assert SECRET not in str(events)
    with pytest.raises(CameoError) as missing:
        client.get_profile(EMAIL)
    assert missing.value.reason == "PROFILE_NOT_FOUND"

    with pytest.raises(CameoError) as known:
        client.update_profile(42, setting(note=SECRET), allow_missing=True, request_id="creates-ada")
    assert known.value.reason == "REQUEST_ID_REUSED"


def test_an_erasure_of_nothing_is_refused_unless_that_is_allowed(client: Client) -> None:
    create_person(client)
    client.erase_profile(42)
    with pytest.raises(CameoError) as refused:
        client.erase_profile(42)
    assert refused.value.reason == "PROFILE_NOT_FOUND"
    assert client.erase_profile(42, allow_missing=True).outcome == WRITE_OUTCOME_UNCHANGED


def test_a_deleted_profile_can_be_exported_and_erased(client: Client) -> None:
    create_person(client)
    assert client.delete_profile(42).outcome == WRITE_OUTCOME_DELETED
    document = json.loads("".join(client.export_subject(42)))
    assert document["profile"] is None
    assert [event["type"] for event in document["history"]] == [
        "profile.created",
        "profile.updated",
        "profile.deleted",
    ]
    assert client.erase_profile(42).outcome == WRITE_OUTCOME_ERASED
    assert SECRET not in "".join(client.export_subject(42))


def test_an_export_has_the_profile_its_merges_and_its_history(client: Client) -> None:
    create_person(client)
    client.update_profile(7, setting(old=True), allow_missing=True)
    client.merge_profiles(42, 7)
    document = json.loads("".join(client.export_subject(7)))
    assert (document["workspace"], document["mpid"]) == (client.workspace, "42")
    assert document["profile"]["userAttributes"] == {"note": f"{SECRET} again", "old": True}
    assert [merge["mergedMpid"] for merge in document["merges"]] == ["7"]
    assert len(document["history"]) == 4


def test_a_large_export_comes_in_parts(client: Client) -> None:
    for note in range(600):
        client.update_profile(42, setting(note=f"{note}" * 500), allow_missing=True)
    parts = list(client.export_subject(42))
    assert len(parts) > 3
    assert len(json.loads("".join(parts))["history"]) == 600


def test_an_export_of_nobody_is_refused(client: Client) -> None:
    with pytest.raises(CameoError) as refused:
        next(client.export_subject(42))
    assert refused.value.reason == "PROFILE_NOT_FOUND"
