"""One person, several profiles: identify, merge, unmerge, and the settings."""

from __future__ import annotations

import pytest

from cameo.v1.identity_service_pb2 import (
    INVOLVED_OUTCOME_KEPT,
    MATCH_REASON_HIGHEST_PRIORITY,
    MATCH_REASON_ONLY_OWNER,
    UNLINKED_REASON_NEVER_LINKS,
)
from cameo.v1.write_pb2 import WRITE_OUTCOME_CREATED, WRITE_OUTCOME_UNCHANGED, WRITE_OUTCOME_UPDATED
from cameo_client import CameoError, Client, Identity, IdentitySettings, OnConflict, ProfilePatch
from harness import setting

CUSTOMER = Identity(type="customer_id", encoding="none", value="mxr15")
EMAIL = Identity(type="email", encoding="none", value="ada@example.com")
KIOSK = Identity(type="mp_deviceid", encoding="none", value="kiosk-1")


def create_two(client: Client) -> None:
    for mpid, identity, plan in ((1, CUSTOMER, "basic"), (2, EMAIL, "pro")):
        patch = setting(plan=plan, **{f"only_{mpid}": True})
        patch.add_identities.append(identity)
        client.update_profile(mpid, patch, allow_missing=True)


def test_identities_make_a_profile_and_then_lead_to_it(client: Client) -> None:
    created = client.identify_profile([CUSTOMER], patch=setting(plan="pro"))
    assert (created.outcome, created.created) == (WRITE_OUTCOME_CREATED, True)
    assert list(created.linked) == [0]

    linked = client.identify_profile([EMAIL, CUSTOMER])
    assert (linked.outcome, linked.profile.mpid) == (WRITE_OUTCOME_UPDATED, created.profile.mpid)
    assert (linked.match.index, linked.match.type) == (1, "customer_id")
    assert linked.match.reason == MATCH_REASON_ONLY_OWNER
    assert list(linked.linked) == [0]

    found = client.identify_profile([EMAIL, CUSTOMER])
    assert (found.outcome, found.profile) == (WRITE_OUTCOME_UNCHANGED, linked.profile)
    assert [event.type for event, _ in client.subscribe(earliest=True, until_caught_up=True)] == [
        "profile.created",
        "profile.updated",
    ]


def test_a_dry_run_explains_and_changes_nothing(client: Client) -> None:
    dry = client.identify_profile([CUSTOMER], validate_only=True)
    assert (dry.created, dry.cursor) == (True, "")
    with pytest.raises(CameoError) as refused:
        client.get_profile(CUSTOMER)
    assert refused.value.reason == "PROFILE_NOT_FOUND"


def test_a_conflict_is_kept_refused_or_merged(client: Client) -> None:
    create_two(client)
    kept = client.identify_profile([EMAIL, CUSTOMER])
    assert (kept.profile.mpid, kept.match.reason) == (1, MATCH_REASON_HIGHEST_PRIORITY)
    assert [(other.mpid, other.outcome) for other in kept.others] == [(2, INVOLVED_OUTCOME_KEPT)]

    with pytest.raises(CameoError) as refused:
        client.identify_profile([EMAIL, CUSTOMER], on_conflict=OnConflict.ON_CONFLICT_FAIL)
    assert refused.value.reason == "IDENTITY_CONFLICT"

    merged = client.identify_profile([EMAIL, CUSTOMER], on_conflict=OnConflict.ON_CONFLICT_MERGE)
    assert list(merged.profile.user_identities) == [CUSTOMER, EMAIL]
    assert client.get_profile(2).mpid == 1


def test_settings_decide_who_matches_and_what_links(client: Client) -> None:
    create_two(client)
    settings = client.update_identity_settings(
        IdentitySettings(priority=["email"], never_link_types=["mp_deviceid"]), ["priority", "never_link_types"]
    )
    assert client.get_identity_settings() == settings

    found = client.identify_profile([CUSTOMER, EMAIL, KIOSK])
    assert found.profile.mpid == 2
    assert [(left.index, left.reason) for left in found.unlinked] == [(2, UNLINKED_REASON_NEVER_LINKS)]

    settings.etag = "stale"
    with pytest.raises(CameoError) as refused:
        client.update_identity_settings(settings)
    assert refused.value.reason == "ETAG_MISMATCH"


def test_a_merge_is_undone(client: Client) -> None:
    create_two(client)
    before = [client.get_profile(1), client.get_profile(2)]
    dry = client.merge_profiles(CUSTOMER, EMAIL, validate_only=True)
    assert [(conflict.field, conflict.from_absorbed) for conflict in dry.conflicts] == [
        ('user_attributes["plan"]', False)
    ]
    assert client.get_profile(2) == before[1]

    merged = client.merge_profiles(CUSTOMER, EMAIL, prefer_newer=True)
    assert (merged.profile.mpid, merged.merged_mpid) == (1, 2)
    assert merged.profile.user_attributes["plan"] == "pro"
    assert client.get_profile(2) == merged.profile

    client.update_profile(1, setting(only_2="changed since"))
    undone = client.unmerge_profiles(2)
    assert (undone.profile.mpid, undone.survivor_mpid) == (2, 1)
    assert list(undone.kept_fields) == ['user_attributes["only_2"]']
    assert undone.profile.user_attributes == before[1].user_attributes
    assert client.get_profile(EMAIL).mpid == 2

    with pytest.raises(CameoError) as refused:
        client.unmerge_profiles(2)
    assert refused.value.reason == "MERGE_NOT_FOUND"


def test_a_merge_needs_the_etags_that_it_names(client: Client) -> None:
    create_two(client)
    for etags in ({"into_etag": "stale"}, {"absorbed_etag": "stale"}):
        with pytest.raises(CameoError) as refused:
            client.merge_profiles(1, 2, **etags)
        assert refused.value.reason == "ETAG_MISMATCH"


def test_a_patch_that_takes_an_identity_names_the_profile_that_lost_it(client: Client) -> None:
    create_two(client)
    taken = client.update_profile(1, ProfilePatch(add_identities=[EMAIL], take_identities=True))
    assert [(lost.mpid, lost.identities_left) for lost in taken.taken_from] == [(2, 0)]
    *_, lost, took = [event for event, _ in client.subscribe(earliest=True, until_caught_up=True)]
    assert (lost.mpid, lost.taken_by_mpid) == (2, 1)
    assert (took.mpid, list(took.taken_from_mpids)) == (1, [2])
