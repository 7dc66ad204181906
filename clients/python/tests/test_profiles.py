from __future__ import annotations

from itertools import count, islice

import grpc
import pytest

from cameo.v1.write_pb2 import WRITE_OUTCOME_CREATED, WRITE_OUTCOME_UPDATED
from cameo_client import CameoError, Client, Identity, Profile, ProfilePatch
from harness import count_up, setting

ADA = Identity(type="customer_id", value="mxr15")
NOBODY = Identity(type="customer_id", value="zzz99")


def create_ada(client: Client) -> Profile:
    patch = setting(plan="pro", visits=3)
    patch.add_identities.append(ADA)
    written = client.update_profile(42, patch, allow_missing=True)
    assert written.outcome == WRITE_OUTCOME_CREATED
    return written.profile


def test_a_profile_is_found_by_mpid_and_by_identity(client: Client) -> None:
    ada = create_ada(client)
    assert client.get_profile(42) == ada
    assert client.get_profile(ADA) == ada


def test_a_mask_trims_the_profile(client: Client) -> None:
    create_ada(client)
    masked = client.get_profile(ADA, read_mask=["mpid", "user_attributes"], user_attribute_keys=["plan"])
    expected = Profile(mpid=42)
    expected.user_attributes["plan"] = "pro"
    assert masked == expected


def test_a_read_with_min_cursor_sees_the_write(client: Client) -> None:
    create_ada(client)
    written = client.update_profile(42, setting(plan="free"))
    seen = client.get_profile(42, min_cursor=written.cursor)
    assert seen.user_attributes["plan"] == "free"


def test_a_batch_has_a_result_for_each_key_in_order(client: Client) -> None:
    ada = create_ada(client)
    bob = client.update_profile(7, setting(plan="free"), allow_missing=True).profile
    found_bob, found_ada, missing, again = client.batch_get_profiles([7, ADA, NOBODY, 42])
    assert (found_bob, found_ada, again) == (bob, ada, ada)

    assert isinstance(missing, CameoError)
    with pytest.raises(CameoError) as alone:
        client.get_profile(NOBODY)
    assert alone.value.reason == "PROFILE_NOT_FOUND"
    assert vars(missing) == vars(alone.value)


def test_a_malformed_key_of_a_batch_is_named(client: Client) -> None:
    create_ada(client)
    _, malformed = client.batch_get_profiles([42, 0])
    assert isinstance(malformed, CameoError)
    assert malformed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert malformed.reason == "FIELD_INVALID"
    assert [violation.field for violation in malformed.field_violations] == ["keys[1].mpid"]


def test_a_batch_takes_the_same_options_as_a_lookup(client: Client) -> None:
    create_ada(client)
    mask = {"read_mask": ["mpid", "user_attributes"], "user_attribute_keys": ["plan"]}
    assert client.batch_get_profiles([ADA], **mask) == [client.get_profile(ADA, **mask)]
    with pytest.raises(CameoError) as refused:
        client.batch_get_profiles([ADA], min_cursor="garbage")
    assert refused.value.reason == "CURSOR_MALFORMED"


def test_a_batch_is_never_split(client: Client) -> None:
    assert len(client.batch_get_profiles([42] * 1_000)) == 1_000
    with pytest.raises(CameoError) as refused:
        client.batch_get_profiles([42] * 1_001)
    assert refused.value.reason == "LIMIT_EXCEEDED"


def test_a_list_has_each_profile_once_by_mpid(client: Client) -> None:
    mpids = [*range(-12, 0), *range(1, 14)]
    for mpid in reversed(mpids):
        count_up(client, mpid)
    assert [profile.mpid for profile in client.list_profiles(page_size=10)] == mpids
    assert [profile.mpid for profile in client.list_profiles()] == mpids

    masked = client.list_profiles(page_size=10, read_mask=["mpid", "user_attributes"], user_attribute_keys=["plan"])
    assert list(masked) == [Profile(mpid=mpid, user_attributes={}) for mpid in mpids]


def test_a_page_is_fetched_when_the_previous_one_is_used_up(client: Client) -> None:
    for mpid in range(1, 26):
        count_up(client, mpid)
    profiles = client.list_profiles(page_size=10)
    assert [profile.mpid for profile in islice(profiles, 10)] == list(range(1, 11))
    count_up(client, 100)  # It is listed only because the third page has not been fetched yet.
    count_up(client, 11)
    eleventh = next(profiles)
    assert eleventh.user_attributes["steps"] == 2, "the second page was fetched too early"
    assert [profile.mpid for profile in profiles] == [*range(12, 26), 100]


def test_an_update_needs_the_etag_it_names(client: Client) -> None:
    ada = create_ada(client)
    written = client.update_profile(42, setting(plan="free"), etag=ada.etag)
    assert written.outcome == WRITE_OUTCOME_UPDATED
    assert written.profile.etag != ada.etag

    with pytest.raises(CameoError) as refused:
        client.update_profile(42, setting(plan="gold"), etag=ada.etag)
    assert refused.value.reason == "ETAG_MISMATCH"
    assert refused.value.code is grpc.StatusCode.ABORTED
    assert client.get_profile(42) == written.profile


def test_an_edit_is_repeated_after_a_write_in_between(client: Client) -> None:
    create_ada(client)
    attempts = count(1)

    def double(profile: Profile) -> ProfilePatch:
        if next(attempts) == 1:
            client.update_profile(42, setting(visits=10))
        return setting(visits=2 * profile.user_attributes["visits"])

    written = client.edit_profile(42, double)
    assert written.profile.user_attributes["visits"] == 20
    assert next(attempts) == 3


def test_a_repeated_request_is_applied_once(client: Client) -> None:
    first = count_up(client, 42, request_id="only-once")
    assert count_up(client, 42, request_id="only-once") == first
    assert client.get_profile(42).user_attributes["steps"] == 1


def test_a_missing_profile_has_its_reason(client: Client) -> None:
    with pytest.raises(CameoError) as refused:
        client.get_profile(ADA)
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert refused.value.reason == "PROFILE_NOT_FOUND"
    assert str(refused.value).startswith("PROFILE_NOT_FOUND: ")
    assert ADA.value not in str(refused.value)


def test_a_malformed_field_is_named(client: Client) -> None:
    client.workspace = "no slashes"
    with pytest.raises(CameoError) as refused:
        client.get_profile(42)
    assert refused.value.reason == "FIELD_INVALID"
    assert [violation.field for violation in refused.value.field_violations] == ["workspace"]
    assert refused.value.field_violations[0].description


def test_a_taken_identity_says_who_owns_it(client: Client) -> None:
    create_ada(client)
    with pytest.raises(CameoError) as refused:
        client.update_profile(43, ProfilePatch(add_identities=[ADA]), allow_missing=True)
    assert refused.value.reason == "IDENTITY_TAKEN"
    assert refused.value.metadata == {"owner_mpid": "42", "identity_type": "customer_id"}
