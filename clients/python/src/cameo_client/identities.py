"""The calls that find the profile of a person, and that join profiles which turn out to be one person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from cameo.v1.identity_service_pb2 import (
    GetIdentitySettingsRequest,
    IdentifyProfileRequest,
    IdentifyProfileResponse,
    IdentitySettings,
    MergeProfilesRequest,
    MergeProfilesResponse,
    OnConflict,
    UnmergeProfilesRequest,
    UnmergeProfilesResponse,
    UpdateIdentitySettingsRequest,
)
from cameo.v1.identity_service_pb2_grpc import IdentityServiceStub
from cameo.v1.profile_pb2 import Identity
from cameo.v1.write_pb2 import ProfilePatch

from .calls import TIMEOUT_SECONDS, Key, new_request_id, profile_key
from .retry import call


class IdentityCalls:
    """The part of a `Client` that calls `IdentityService`."""

    workspace: str
    identities: IdentityServiceStub

    def identify_profile(
        self,
        identities: Iterable[Identity],
        *,
        patch: ProfilePatch | None = None,
        on_conflict: OnConflict = OnConflict.ON_CONFLICT_KEEP,
        validate_only: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> IdentifyProfileResponse:
        """Finds the profile that owns these identities, or creates it. Links those that nobody owns.

        The response has the profile, and says how it was found and what became of each identity and each other owner.
        With `on_conflict` FAIL, several owners are IDENTITY_CONFLICT.

        A call that changes nothing is a read for the service, unless it has a `request_id`. So this method adds one
        only if there is a patch, or if profiles may be merged. Without one, a retry of a call whose response was lost
        may say UNCHANGED where the first attempt created the profile or linked an identity.
        """
        is_write = patch is not None or on_conflict == OnConflict.ON_CONFLICT_MERGE
        request = IdentifyProfileRequest(
            workspace=self.workspace,
            identities=identities,
            patch=patch,
            on_conflict=on_conflict,
            request_id=request_id or (new_request_id() if is_write and not validate_only else ""),
            validate_only=validate_only,
        )
        return call(self.identities.IdentifyProfile, request, timeout)

    def merge_profiles(
        self,
        into: Key,
        absorbed: Key,
        *,
        prefer_newer: bool = False,
        into_etag: str = "",
        absorbed_etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> MergeProfilesResponse:
        """Merges the profile `absorbed` into the profile `into`: they are the same person.

        The mpid of the absorbed profile names the survivor from then on. The response says which values both had.
        With `prefer_newer`, of an attribute that both have, the value that changed last survives. With
        `validate_only`, the response is that of the real call, and nothing changes.
        """
        request = MergeProfilesRequest(
            workspace=self.workspace,
            into=profile_key(into),
            prefer_newer=prefer_newer,
            into_etag=into_etag,
            from_etag=absorbed_etag,
            request_id=request_id or new_request_id(),
            validate_only=validate_only,
        )
        getattr(request, "from").CopyFrom(profile_key(absorbed))  # `from` is a keyword.
        return call(self.identities.MergeProfiles, request, timeout)

    def unmerge_profiles(
        self,
        merged_mpid: int,
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> UnmergeProfilesResponse:
        """Undoes a merge: restores the profile that was absorbed.

        `kept_fields` of the response names what has changed since the merge, and therefore stays with the survivor.
        Raises MERGE_NOT_REVERSIBLE if the profile cannot be restored exactly; then nothing changes.
        """
        request = UnmergeProfilesRequest(
            workspace=self.workspace,
            merged_mpid=merged_mpid,
            request_id=request_id or new_request_id(),
            validate_only=validate_only,
        )
        return call(self.identities.UnmergeProfiles, request, timeout)

    def get_identity_settings(self, *, timeout: float = TIMEOUT_SECONDS) -> IdentitySettings:
        """Returns how the workspace resolves identities."""
        request = GetIdentitySettingsRequest(workspace=self.workspace)
        return call(self.identities.GetIdentitySettings, request, timeout).settings

    def update_identity_settings(
        self,
        settings: IdentitySettings,
        update_mask: Sequence[str] = (),
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> IdentitySettings:
        """Changes the settings that `update_mask` names, or all of them. They apply to later writes.

        If `settings.etag` is set and no longer that of the settings in force, this raises ETAG_MISMATCH.
        """
        request = UpdateIdentitySettingsRequest(
            workspace=self.workspace,
            settings=settings,
            update_mask=FieldMask(paths=update_mask),
            request_id=request_id or new_request_id(),
            validate_only=validate_only,
        )
        return call(self.identities.UpdateIdentitySettings, request, timeout).settings
