//! Each RPC, what it needs, and a request that is complete.
#![allow(clippy::unnecessary_wraps)] // The fields of messages are optional.

use std::pin::Pin;

use cameo::proto::v1::*;
use futures_util::stream;
use tonic::Status;

use crate::harness::*;

/// What an RPC needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// A role in the workspace of the request.
    Role(&'static str),
    /// A role in all workspaces.
    All(&'static str),
}
use Needs::{All, Role};

type Call = Box<dyn Fn(Client, String) -> Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>>;

pub struct Row {
    /// `Service/Method`.
    pub name: &'static str,
    pub needs: Needs,
    /// Makes the call in a workspace.
    pub call: Call,
}

macro_rules! row {
    ($name:literal, $needs:expr, $service:ident.$method:ident($request:expr)) => {
        Row {
            name: $name,
            needs: $needs,
            call: Box::new(|client, workspace| {
                Box::pin(async move {
                    let request = ($request)(workspace);
                    client.$service.clone().$method(request).await.map(drop)
                })
            }),
        }
    };
}

const AUDIENCE: i64 = 7;

fn ada() -> Option<ProfileKey> {
    Some(by_mpid(ADA))
}

fn subscription() -> Option<Subscription> {
    Some(Subscription { name: "mail".into(), ..Subscription::default() })
}

/// Every RPC.
pub fn all() -> Vec<Row> {
    [profiles(), identities(), audiences(), events(), admin()].into_iter().flatten().collect()
}

fn profiles() -> Vec<Row> {
    let read = Role("reader");
    let (write, keep) = (Role("writer"), Role("steward"));
    vec![
        row!(
            "ProfileService/GetProfile",
            read,
            profiles.get_profile(|workspace| GetProfileRequest { workspace, key: ada(), ..Default::default() })
        ),
        row!(
            "ProfileService/BatchGetProfiles",
            read,
            profiles.batch_get_profiles(|workspace| BatchGetProfilesRequest {
                workspace,
                keys: vec![by_mpid(ADA)],
                ..Default::default()
            })
        ),
        row!(
            "ProfileService/ListProfiles",
            read,
            profiles.list_profiles(|workspace| ListProfilesRequest { workspace, ..Default::default() })
        ),
        row!(
            "ProfileService/CreateProfile",
            write,
            profiles.create_profile(|workspace| CreateProfileRequest { workspace, ..create_request() })
        ),
        row!(
            "ProfileService/UpdateProfile",
            write,
            profiles.update_profile(|workspace| UpdateProfileRequest { workspace, ..update_request(ADA) })
        ),
        row!(
            "ProfileService/DeleteProfile",
            write,
            profiles.delete_profile(|workspace| DeleteProfileRequest { workspace, ..delete_request(ADA) })
        ),
        row!(
            "ProfileService/ImportProfiles",
            write,
            profiles.import_profiles(|workspace| stream::iter([ImportProfilesRequest {
                workspace,
                ..record(by_mpid(GRACE), ProfilePatch::default())
            }]))
        ),
        row!(
            "ProfileService/EraseProfile",
            keep,
            profiles.erase_profile(|workspace| EraseProfileRequest { workspace, key: ada(), ..Default::default() })
        ),
        row!(
            "ProfileService/ExportSubject",
            keep,
            profiles.export_subject(|workspace| ExportSubjectRequest { workspace, key: ada() })
        ),
    ]
}

fn identities() -> Vec<Row> {
    let (read, write, keep) = (Role("reader"), Role("writer"), Role("steward"));
    vec![
        row!(
            "IdentityService/IdentifyProfile",
            write,
            identities.identify_profile(|workspace| IdentifyProfileRequest {
                workspace,
                identities: vec![email("ada")],
                ..Default::default()
            })
        ),
        row!(
            "IdentityService/MergeProfiles",
            keep,
            identities.merge_profiles(|workspace| MergeProfilesRequest {
                workspace,
                into: ada(),
                from: Some(by_mpid(GRACE)),
                ..Default::default()
            })
        ),
        row!(
            "IdentityService/UnmergeProfiles",
            keep,
            identities.unmerge_profiles(|workspace| UnmergeProfilesRequest {
                workspace,
                merged_mpid: ADA,
                ..Default::default()
            })
        ),
        row!(
            "IdentityService/GetIdentitySettings",
            read,
            identities.get_identity_settings(|workspace| GetIdentitySettingsRequest { workspace })
        ),
        row!(
            "IdentityService/UpdateIdentitySettings",
            keep,
            identities.update_identity_settings(|workspace| UpdateIdentitySettingsRequest {
                workspace,
                settings: Some(IdentitySettings::default()),
                ..Default::default()
            })
        ),
    ]
}

fn audiences() -> Vec<Row> {
    let (read, keep) = (Role("reader"), Role("steward"));
    vec![
        row!(
            "AudienceService/CreateAudience",
            keep,
            audiences.create_audience(|workspace| CreateAudienceRequest {
                workspace,
                audience: Some(Audience { name: "news".into(), ..Default::default() }),
                ..Default::default()
            })
        ),
        row!(
            "AudienceService/DeleteAudience",
            keep,
            audiences.delete_audience(|workspace| DeleteAudienceRequest {
                workspace,
                audience_id: AUDIENCE,
                ..Default::default()
            })
        ),
        row!(
            "AudienceService/AddAudienceMembers",
            keep,
            audiences.add_audience_members(|workspace| AddAudienceMembersRequest {
                workspace,
                audience_id: AUDIENCE,
                keys: vec![by_mpid(ADA)],
                ..Default::default()
            })
        ),
        row!(
            "AudienceService/RemoveAudienceMembers",
            keep,
            audiences.remove_audience_members(|workspace| RemoveAudienceMembersRequest {
                workspace,
                audience_id: AUDIENCE,
                keys: vec![by_mpid(ADA)],
                ..Default::default()
            })
        ),
        row!(
            "AudienceService/GetAudience",
            read,
            audiences.get_audience(|workspace| GetAudienceRequest { workspace, audience_id: AUDIENCE })
        ),
        row!(
            "AudienceService/ListAudiences",
            read,
            audiences.list_audiences(|workspace| ListAudiencesRequest { workspace, ..Default::default() })
        ),
        row!(
            "AudienceService/ListAudienceMembers",
            read,
            audiences.list_audience_members(|workspace| ListAudienceMembersRequest {
                workspace,
                audience_id: AUDIENCE,
                ..Default::default()
            })
        ),
    ]
}

fn events() -> Vec<Row> {
    let hear = Role("subscriber");
    vec![
        row!(
            "EventService/Subscribe",
            hear,
            events.subscribe(|workspace| SubscribeRequest { workspace, ..Default::default() })
        ),
        row!(
            "EventService/ListEvents",
            hear,
            events.list_events(|workspace| ListEventsRequest { workspace, ..Default::default() })
        ),
        row!(
            "EventService/GetEvent",
            hear,
            events.get_event(|workspace| GetEventRequest { workspace, sequence: 1, ..Default::default() })
        ),
        row!(
            "EventService/CreateSubscription",
            hear,
            events.create_subscription(|workspace| CreateSubscriptionRequest {
                workspace,
                subscription: subscription(),
                ..Default::default()
            })
        ),
        row!(
            "EventService/GetSubscription",
            hear,
            events.get_subscription(|workspace| GetSubscriptionRequest { workspace, name: "mail".into() })
        ),
        row!(
            "EventService/ListSubscriptions",
            hear,
            events.list_subscriptions(|workspace| ListSubscriptionsRequest { workspace, ..Default::default() })
        ),
        row!(
            "EventService/UpdateSubscription",
            hear,
            events.update_subscription(|workspace| UpdateSubscriptionRequest {
                workspace,
                subscription: subscription(),
                ..Default::default()
            })
        ),
        row!(
            "EventService/DeleteSubscription",
            hear,
            events.delete_subscription(|workspace| DeleteSubscriptionRequest {
                workspace,
                name: "none".into(),
                ..Default::default()
            })
        ),
        row!(
            "EventService/SeekSubscription",
            hear,
            events.seek_subscription(|workspace| SeekSubscriptionRequest {
                workspace,
                name: "mail".into(),
                to: Some(seek_subscription_request::To::Now(true)),
                ..Default::default()
            })
        ),
        row!(
            "EventService/Acknowledge",
            hear,
            events.acknowledge(|workspace| AcknowledgeRequest {
                workspace,
                subscription: "mail".into(),
                stream: 1,
                ..Default::default()
            })
        ),
        row!(
            "EventService/ListSkippedEvents",
            hear,
            events.list_skipped_events(|workspace| ListSkippedEventsRequest {
                workspace,
                subscription: "mail".into(),
                ..Default::default()
            })
        ),
    ]
}

fn admin() -> Vec<Row> {
    vec![
        row!("AdminService/GetStatus", Role("operator"), admin.get_status(|workspace| GetStatusRequest { workspace })),
        row!(
            "AdminService/ListWorkspaces",
            All("operator"),
            admin.list_workspaces(|_| ListWorkspacesRequest::default())
        ),
        row!("AdminService/Backup", All("operator"), admin.backup(|_| BackupRequest {})),
        row!("AdminService/Compact", All("operator"), admin.compact(|_| CompactRequest {})),
    ]
}
