//! The reads: one profile, a batch of them, a page of them. Each is a parsed request that runs on a store.

use std::sync::Arc;

use super::super::codec::Encoded;
use crate::call::Call;
use crate::model::audience_page::{self, Listed};
use crate::model::page_token::{self, PageStart};
use crate::model::{AudienceId, Grant, Invalid, Limits, Mask, Place, ProfileKey, Workspace, wire};
use crate::proto::field::{
    batch_get_profiles_response::RESULTS,
    batch_get_profiles_result::{ERROR, FOUND, REDIRECTED_FROM},
    get_profile_response,
    list_profiles_response::{NEXT_PAGE_TOKEN, PROFILES},
};
use crate::proto::v1::{BatchGetProfilesRequest, GetProfileRequest, ListProfilesRequest};
use crate::refusal::Refusal;
use crate::store::{Found, Lookups, PageSize, Past, Store, StoreError};

/// A parsed `GetProfileRequest`.
pub(super) struct Get {
    pub workspace: Workspace,
    key: ProfileKey,
    mask: Mask,
    min_cursor: String,
}

/// A parsed `BatchGetProfilesRequest`.
pub(super) struct Batch {
    pub workspace: Workspace,
    /// A malformed key gets its own error and does not fail the batch.
    keys: Vec<Result<ProfileKey, Invalid>>,
    mask: Mask,
    min_cursor: String,
    /// Bytes of the response past which no further profile is added.
    response_bytes: usize,
}

/// A parsed `ListProfilesRequest`.
pub(super) struct List {
    pub workspace: Workspace,
    /// The audience whose members are listed. `None` means all profiles.
    audience: Option<AudienceId>,
    start: PageStart,
    mask: Mask,
    size: PageSize,
}

impl Get {
    pub fn parse(request: GetProfileRequest, limits: &Limits, grant: Option<&Arc<Grant>>) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(&request.workspace)?;
        let key = ProfileKey::parse("key", request.key, limits)?;
        key.check_within("key", grant)?;
        Ok(Self {
            workspace,
            mask: Mask::parse(request.read_mask, request.user_attribute_keys, grant)?,
            key,
            min_cursor: request.min_cursor,
        })
    }

    /// A `GetProfileResponse` with the profile as it is stored, or cut by the mask. Either way it is not decoded.
    pub fn run(&self, store: &Store) -> Result<Encoded, StoreError> {
        check_min_cursor(store, &self.workspace, &self.min_cursor)?;
        store.find(&self.workspace, &self.key, |Found { profile, redirected_from }| {
            use get_profile_response::{PROFILE, REDIRECTED_FROM};
            let profile = self.mask.profile(profile).map_err(|_| StoreError::corrupt("profile"))?;
            let mut message = Vec::with_capacity(wire::delimited_len(PROFILE, profile.len()));
            wire::put_delimited(PROFILE, &profile, &mut message);
            if let Some(mpid) = redirected_from {
                prost::encoding::int64::encode(REDIRECTED_FROM, &mpid.get(), &mut message);
            }
            Ok(message.into())
        })?
    }
}

impl Batch {
    pub fn parse(
        request: BatchGetProfilesRequest,
        limits: &Limits,
        grant: Option<&Arc<Grant>>,
    ) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(&request.workspace)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys, grant)?;
        if request.keys.is_empty() {
            return Err(Invalid::field("keys", "must not be empty"));
        }
        Invalid::limit("keys", "keys", limits.batch_keys, request.keys.len())?;
        let keys = request.keys.into_iter().enumerate();
        let keys = keys.map(|(index, key)| {
            let field = format!("keys[{index}]");
            let key = ProfileKey::parse(field.as_str(), Some(key), limits)?;
            key.check_within(&field, grant).map(|()| key)
        });
        let (min_cursor, response_bytes) = (request.min_cursor, limits.response_bytes);
        Ok(Self { workspace, keys: keys.collect(), mask, min_cursor, response_bytes })
    }

    /// A `BatchGetProfilesResponse`. All its profiles are of one state of the store.
    pub fn run(&self, store: &Store, call: &Call) -> Result<Encoded, StoreError> {
        check_min_cursor(store, &self.workspace, &self.min_cursor)?;
        let lookups = store.lookups(&self.workspace)?;
        let mut message = Vec::new();
        for key in &self.keys {
            if let Err(error) = self.put_result(&lookups, key, &mut message) {
                let error = tonic::Status::from(call.refuse(error));
                put_nested(ERROR, error.details(), &mut message); // An encoded google.rpc.Status.
            }
        }
        Ok(message.into())
    }

    fn put_result(
        &self,
        lookups: &Lookups,
        key: &Result<ProfileKey, Invalid>,
        message: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let key = key.as_ref().map_err(|invalid| Refusal::from(invalid.clone()))?;
        lookups.find(key, |Found { profile, redirected_from }| {
            let profile = self.mask.profile(profile).map_err(|_| StoreError::corrupt("profile"))?;
            let found = message.len() + profile.len();
            if found > self.response_bytes && !message.is_empty() {
                return Err(Refusal::response_full(self.response_bytes, found));
            }
            let Some(mpid) = redirected_from else {
                put_nested(FOUND, &profile, message);
                return Ok(());
            };
            let mut result = Vec::new();
            wire::put_delimited(FOUND, &profile, &mut result);
            prost::encoding::int64::encode(REDIRECTED_FROM, &mpid.get(), &mut result);
            wire::put_delimited(RESULTS, &result, message);
            Ok(())
        })?
    }
}

impl List {
    pub fn parse(request: ListProfilesRequest, limits: &Limits, grant: Option<&Arc<Grant>>) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(&request.workspace)?;
        let (audience, token) = (AudienceId::new(request.audience_id), &request.page_token);
        let sees_members = audience.is_none() || grant.is_none_or(|grant| grant.has_audiences());
        Grant::check(sees_members, "audience_id", "audience_memberships")?;
        Ok(Self {
            start: match audience {
                Some(id) => audience_page::parse_members(Listed::Profiles, &workspace, id, token)?,
                None => page_token::parse(&workspace, token)?,
            },
            audience,
            workspace,
            mask: Mask::parse(request.read_mask, request.user_attribute_keys, grant)?,
            size: PageSize { items: limits.page_size(request.page_size)?, bytes: limits.response_bytes },
        })
    }

    /// A `ListProfilesResponse`.
    pub fn run(&self, store: &Store) -> Result<Encoded, Refusal> {
        let mut message = Vec::new();
        let take = |profile: &[u8]| {
            let profile = self.mask.profile(profile).map_err(|_| StoreError::corrupt("profile"))?;
            wire::put_delimited(PROFILES, &profile, &mut message);
            Ok(profile.len())
        };
        let page = match self.audience {
            Some(id) => store.list_member_profiles(&self.workspace, id, self.start, self.size, take),
            None => store.list_profiles(&self.workspace, self.start, self.size, take),
        };
        let token = |start| match self.audience {
            Some(id) => audience_page::of_members(Listed::Profiles, &self.workspace, id, start),
            None => page_token::encode(&self.workspace, start),
        };
        let next = page.map_err(|error| match error {
            StoreError::Corrupt { table, past: Some(Past::Profile) } => {
                Refusal::list_damaged(table, &token(PageStart { over_damage: true, ..self.start }))
            }
            other => other.into(),
        })?;
        if let Some(last) = next {
            wire::put_delimited(NEXT_PAGE_TOKEN, token(PageStart::after(last)).as_bytes(), &mut message);
        }
        Ok(message.into())
    }
}

/// Checks `min_cursor`. There is nothing to wait for: a cursor is sent only after its commit.
fn check_min_cursor(store: &Store, workspace: &Workspace, cursor: &str) -> Result<(), StoreError> {
    if cursor.is_empty() {
        return Ok(());
    }
    let head = match store.workspace_id(workspace) {
        Some(id) => store.snapshot()?.log_bounds(id)?.head,
        None => Place::START,
    };
    store.known_cursors(workspace).parse("min_cursor", cursor, head)?;
    Ok(())
}

/// Writes a `BatchGetProfilesResult` that has this one field.
fn put_nested(field: u32, value: &[u8], message: &mut Vec<u8>) {
    wire::put_delimited_header(RESULTS, wire::delimited_len(field, value.len()), message);
    wire::put_delimited(field, value, message);
}
