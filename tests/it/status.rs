//! What the server tells its operators.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use cameo::model::Limits;
use cameo::proto::field::server_limits;
use cameo::proto::v1::*;
use tonic::{Code, Status};

use crate::harness::*;

/// Rows per second at which the scrubber goes through these stores many times a second.
const FAST: u32 = 100_000;
/// How many more passes of the scrubber a test waits for.
const PASSES: u64 = 3;

/// Waits for the scrubber to report that `condition` holds.
async fn scrubbed(client: &Client, condition: impl Fn(&Scrub) -> bool) -> Scrub {
    within(async {
        loop {
            let scrub = client.status("").await.unwrap().scrub.unwrap();
            if condition(&scrub) {
                return scrub;
            }
        }
    })
    .await
}

#[tokio::test]
async fn status_says_which_server_it_is_and_since_when() {
    let before = SystemTime::now();
    let server = TestServer::start().await;
    let after = SystemTime::now();
    let status = server.client().await.status("").await.unwrap();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    let start = SystemTime::try_from(status.start_time.unwrap()).unwrap();
    let microsecond = Duration::from_micros(1); // The server cuts its start to whole microseconds.
    assert!(before - microsecond <= start && start <= after, "{start:?}");
}

#[tokio::test]
async fn status_shows_how_the_store_and_a_log_grow() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let empty = client.status(WORKSPACE).await.unwrap();
    let store = empty.store.unwrap();
    assert_eq!((store.workspaces, empty.log), (0, None));
    assert!(store.free_bytes.unwrap() > 0);

    for mpid in 1..=20 {
        client.create(padded(mpid)).await.unwrap();
    }

    let status = client.status(WORKSPACE).await.unwrap();
    let log = status.log.unwrap();
    assert_eq!((log.oldest_sequence, log.head_sequence), (1, 20));
    let events = 20 * PAD_BYTES as u64;
    assert!((events..events + 20 * 1_000).contains(&log.log_bytes), "{log:?}");
    let grown = status.store.unwrap();
    assert_eq!(grown.workspaces, 1);
    let file = fs::metadata(store_file(server.dir.path())).unwrap().len();
    assert_eq!(grown.file_bytes, Some(file));
    assert!(grown.file_bytes > store.file_bytes);
    assert_eq!(client.status("").await.unwrap().log, None);
    assert_eq!(client.status(OTHER_WORKSPACE).await.unwrap().log, None);
}

#[tokio::test]
async fn status_refuses_a_malformed_workspace() {
    let server = TestServer::start().await;
    let refused = server.client().await.status("acme/main").await;
    assert_refused(refused, Code::InvalidArgument, "FIELD_INVALID", "workspace");
}

#[tokio::test]
async fn status_shows_the_limits_in_force() {
    let limits = Limits {
        profile_bytes: 101,
        attributes: 102,
        attribute_key_bytes: 103,
        attribute_value_bytes: 104,
        identities: 105,
        identity_value_bytes: 106,
        audience_memberships: 107,
        attributions: 108,
        workspaces: 109,
        subscriptions: 134,
        request_bytes: 110,
        batch_keys: 111,
        page_items: 112,
        response_bytes: 113,
    };
    let server = TestServer::start_with(|config| {
        config.limits = limits;
        config.store.queue_commands = 114;
        config.store.queue_bytes = 115;
        config.feed.ring_bytes = 116;
        config.store.cache_bytes = 117;
        config.store.min_free_bytes = 118;
        config.feed.stall_timeout = Duration::from_secs(119);
        config.server.http_rate = 120;
        config.server.drain_timeout = Duration::from_secs(121);
        config.store.scrub_rate = 122;
        config.server.max_connections = 123;
        config.server.max_calls_per_connection = 124;
        config.server.max_calls = 125;
        config.server.receive_bytes = 126;
        config.server.send_bytes = 127;
        config.server.handshake_timeout = Duration::from_secs(128);
        config.server.idle_timeout = Duration::from_secs(129);
        config.server.receive_timeout = Duration::from_secs(130);
        config.server.send_timeout = Duration::from_secs(131);
        config.feed.max_stream_age = Duration::from_secs(132);
        config.feed.max_streams_per_client = 133;
        config.quotas.max_call_rate_per_client = 1_000_053;
        config.quotas.max_writes_per_client = 54;
        config.quotas.max_import_rate_per_client = 55;
        config.store.read_concurrency = 23;
        config.server.import_idle_timeout = Duration::from_secs(24);
        config.store.retention_age = Duration::from_secs(132);
        config.store.retention_bytes = 133;
        config.store.subscription_hold_age = Duration::from_secs(134);
        config.store.subscription_hold_bytes = 135;
    })
    .await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let expected = ServerLimits {
        max_profile_bytes: 101,
        max_attributes: 102,
        max_attribute_key_bytes: 103,
        max_attribute_value_bytes: 104,
        max_identities: 105,
        max_identity_value_bytes: 106,
        max_audience_memberships: 107,
        max_attributions: 108,
        max_workspaces: 109,
        max_request_bytes: 110,
        max_batch_keys: 111,
        max_page_items: 112,
        max_response_bytes: 113,
        queue_commands: 114,
        queue_bytes: 115,
        ring_bytes: 116,
        cache_bytes: 117,
        min_free_bytes: 118,
        stall_timeout: seconds(119),
        http_rate: 120,
        drain_timeout: seconds(121),
        max_connections: 123,
        max_calls_per_connection: 124,
        max_calls: 125,
        receive_bytes: 126,
        send_bytes: 127,
        handshake_timeout: seconds(128),
        idle_timeout: seconds(129),
        receive_timeout: seconds(130),
        send_timeout: seconds(131),
        max_stream_age: seconds(132),
        max_streams_per_client: 133,
        max_call_rate_per_client: 1_000_053,
        max_writes_per_client: 54,
        max_import_rate_per_client: 55,
        max_subscriptions: 134,
        read_concurrency: 23,
        import_idle_timeout: seconds(24),
        retention_age: seconds(132),
        retention_bytes: 133,
        subscription_hold_age: seconds(134),
        subscription_hold_bytes: 135,
    };
    let status = server.client().await.status("").await.unwrap();
    assert_eq!((status.limits, status.scrub.unwrap().rows_per_second), (Some(expected), 122));
}

#[tokio::test]
async fn every_limit_of_the_status_has_the_name_of_its_flag() {
    let help = output(binary().args(["serve", "--help"])).await.stdout;
    let help = String::from_utf8(help).unwrap();
    for (name, _) in server_limits::ALL {
        let flag = format!("--{} <", name.replace('_', "-"));
        assert!(help.contains(&flag), "no {flag} in {help}");
    }
}

#[tokio::test]
async fn the_scrubber_walks_over_a_sound_store_again_and_again() {
    let server = TestServer::start_with(scrub_rate(FAST)).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let begun = scrubbed(&client, |scrub| scrub.passes > 0).await;
    let later = scrubbed(&client, |scrub| scrub.passes >= begun.passes + PASSES).await;
    assert!(later.rows > begun.rows, "{begun:?} {later:?}");
    assert_eq!(later.damaged, 0);
}

#[tokio::test]
async fn a_scrubber_that_is_turned_off_says_so() {
    let server = TestServer::start_with(scrub_rate(0)).await;
    assert_eq!(server.client().await.status("").await.unwrap().scrub, Some(Scrub::default()));
}

/// The scrubber finds the damage; no caller looks the damaged profile up.
#[tokio::test]
async fn damage_shows_in_the_status_and_in_the_log() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    client.create(with_mpid(GRACE)).await.unwrap();
    let dir = server.stop().await;
    edit(&dir, |transaction| damage_profile(transaction, ADA));

    let log = dir.path().join("log");
    let mut binary = binary();
    binary.stderr(File::create(&log).unwrap());
    let flags = ["--scrub-rate", &FAST.to_string()];
    let process = TestProcess::start_as(&mut binary, &data_dir(dir.path()), &flags).await;

    let found = scrubbed(&process.client().await, |scrub| scrub.damaged > 0).await;
    let later = scrubbed(&process.client().await, |scrub| scrub.passes >= found.passes + PASSES).await;
    assert_eq!((found.damaged, later.damaged), (1, 1), "a row that stays damaged counts once");
    until(|| {
        let log = fs::read_to_string(&log).unwrap();
        log.lines().any(|line| line.contains("stored records are corrupt") && line.contains("table=\"profile\""))
    })
    .await;
}

/// A page of workspaces.
async fn workspaces(client: &Client, request: ListWorkspacesRequest) -> Result<ListWorkspacesResponse, Status> {
    Ok(client.admin.clone().list_workspaces(request).await?.into_inner())
}

/// The names of all workspaces with this prefix, read in pages of this size; 0 is the server's default.
async fn names(client: &Client, prefix: &str, page_size: i32) -> Vec<String> {
    let mut names = Vec::new();
    let mut request = ListWorkspacesRequest { page_size, prefix: prefix.into(), ..Default::default() };
    within(async {
        loop {
            let page = workspaces(client, request.clone()).await.unwrap();
            names.extend(page.workspaces.into_iter().map(|status| status.workspace));
            if page.next_page_token.is_empty() {
                return names;
            }
            request.page_token = page.next_page_token;
        }
    })
    .await
}

/// Writes one profile to a workspace.
async fn write_to(client: &Client, workspace: &str) {
    let request = CreateProfileRequest { workspace: workspace.into(), ..create_request() };
    client.create_with(request).await.unwrap();
}

/// The workspaces `acme/main/00` to `acme/main/24`, which are created in another order.
async fn with_25_workspaces() -> (TestServer, Vec<String>) {
    const COUNT: usize = 25;
    let server = TestServer::start().await;
    let client = server.client().await;
    let name = |n: usize| format!("acme/main/{n:02}");
    for n in 0..COUNT {
        write_to(&client, &name(n * 7 % COUNT)).await;
    }
    (server, (0..COUNT).map(name).collect())
}

#[tokio::test]
async fn workspaces_are_listed_once_and_in_order_while_others_are_added() {
    let (server, mut expected) = with_25_workspaces().await;
    let client = server.client().await;
    assert_eq!(names(&client, "", 0).await, expected);

    let mut listed = Vec::new();
    let mut request = ListWorkspacesRequest { page_size: 7, ..Default::default() };
    let mut sizes = Vec::new();
    loop {
        let page = workspaces(&client, request.clone()).await.unwrap();
        sizes.push(page.workspaces.len());
        listed.extend(page.workspaces.into_iter().map(|status| status.workspace));
        if page.next_page_token.is_empty() {
            break;
        }
        if sizes.len() == 2 {
            write_to(&client, "acme/main/05-late").await; // Before the place where the list is.
            write_to(&client, "acme/main/20-late").await; // After it.
        }
        request.page_token = page.next_page_token;
    }
    expected.insert(21, "acme/main/20-late".into());
    assert_eq!(listed, expected);
    assert_eq!(sizes, [7, 7, 7, 5]);
}

#[tokio::test]
async fn a_page_of_workspaces_that_ends_the_list_has_no_token() {
    let (server, expected) = with_25_workspaces().await;
    let request = ListWorkspacesRequest { page_size: 25, ..Default::default() };
    let page = workspaces(&server.client().await, request).await.unwrap();
    assert_eq!((page.workspaces.len(), page.next_page_token), (expected.len(), String::new()));
}

#[tokio::test]
async fn a_prefix_selects_workspaces_and_the_list_goes_on_after_a_restart() {
    let (server, all) = with_25_workspaces().await;
    let client = server.client().await;
    for other in ["acme/mai/n", "acme/main-2/00", "acme2/main/00", "Acme/main/00"] {
        write_to(&client, other).await;
    }
    assert_eq!(names(&client, "acme/main/", 3).await, all);
    assert_eq!(names(&client, "acme/main/1", 3).await, all[10..20]);
    assert_eq!(names(&client, "acme/main/07", 0).await, all[7..8]);
    assert_eq!(names(&client, "acme/mai", 0).await.len(), all.len() + 2);
    assert!(names(&client, "acme/main/3", 0).await.is_empty());
    assert_eq!(names(&client, "", 0).await[0], "Acme/main/00", "in the order of bytes");

    let request = ListWorkspacesRequest { page_size: 20, prefix: "acme/main/".into(), ..Default::default() };
    let page_token = workspaces(&client, request.clone()).await.unwrap().next_page_token;
    let server = server.restart().await;
    let client = server.client().await;
    let rest = workspaces(&client, ListWorkspacesRequest { page_token, ..request }).await.unwrap();
    let rest: Vec<_> = rest.workspaces.into_iter().map(|status| status.workspace).collect();
    assert_eq!(rest, all[20..]);
}

#[tokio::test]
async fn a_listed_workspace_shows_the_bounds_of_its_log() {
    let server = TestServer::start().await;
    let client = server.client().await;
    assert_eq!(workspaces(&client, ListWorkspacesRequest::default()).await.unwrap(), ListWorkspacesResponse::default());
    for mpid in 1..=3 {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    write_to(&client, OTHER_WORKSPACE).await;
    let page = workspaces(&client, ListWorkspacesRequest::default()).await.unwrap();
    for (status, (workspace, head_sequence)) in page.workspaces.iter().zip([(OTHER_WORKSPACE, 1), (WORKSPACE, 3)]) {
        let log = client.status(workspace).await.unwrap().log.unwrap();
        assert_eq!((log.oldest_sequence, log.head_sequence), (1, head_sequence));
        assert_eq!(*status, WorkspaceStatus { workspace: workspace.into(), log: Some(log) });
    }
    assert_eq!(page.workspaces.len(), 2);
}

#[tokio::test]
async fn a_list_of_workspaces_that_cannot_be_is_refused() {
    let server = TestServer::start_with(limits(|limits| limits.page_items = 4)).await;
    let client = server.client().await;
    for n in 0..6 {
        write_to(&client, &format!("acme/main/{n}")).await;
    }
    let invalid = Code::InvalidArgument;
    let of_all = workspaces(&client, ListWorkspacesRequest::default()).await.unwrap();
    assert_eq!(of_all.workspaces.len(), 4, "the default is no more than the limit");
    let request = ListProfilesRequest { workspace: "acme/main/1".into(), page_size: 1, ..page_request() };
    write_to(&client, "acme/main/1").await;
    let of_profiles = client.page(request).await.unwrap().next_page_token;
    let prefix = "acme/";
    for (page_token, prefix) in
        [("garbled", ""), (&of_all.next_page_token[1..], ""), (&of_profiles, ""), (&of_all.next_page_token, prefix)]
    {
        let request =
            ListWorkspacesRequest { page_token: page_token.into(), prefix: prefix.into(), ..Default::default() };
        assert_refused(workspaces(&client, request).await, invalid, "FIELD_INVALID", "page_token");
    }
    for prefix in ["acme main", "/", "acme//", "acme/main/web/", "ä", "acme/*"] {
        let request = ListWorkspacesRequest { prefix: prefix.into(), ..Default::default() };
        assert_refused(workspaces(&client, request).await, invalid, "FIELD_INVALID", "prefix");
    }
    for (page_size, reason) in [(-1, "FIELD_INVALID"), (5, "LIMIT_EXCEEDED")] {
        let request = ListWorkspacesRequest { page_size, ..Default::default() };
        assert_refused(workspaces(&client, request).await, invalid, reason, "page_size");
    }
}
