//! Credentials that are not accepted, over every way in.

use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tonic::Code;

use crate::harness::*;

/// A token of the right form that nobody has.
const MADE_UP: &str = "cameo_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_has_is_refused_and_not_repeated() {
    let callers = CallersFile::new();
    let token = callers.add("crm", &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let (almost, _) = token.split_at(token.len() - 1);
    for wrong in [MADE_UP, almost, "x", &"x".repeat(6_000)] {
        let status = Client::connect_with(server.addr, wrong).await.get(ADA).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
        assert!(!status.message().contains(wrong), "{status:?}");
    }
    let status = Client::connect_with(server.addr, &token).await.get(ADA).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_token_is_refused_before_it_is_looked_at() {
    let callers = CallersFile::new();
    callers.add("crm", &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let bearer = format!("Bearer {}", "x".repeat(100_000));
    let refused = http(server.addr, "GET", &format!("{WORKSPACE}/1"), &[("authorization", &bearer)], "").await;
    assert_eq!((refused.status, &refused.json()["reason"]), (401, &"UNAUTHENTICATED".into()));
    // Over HTTP/2 the head of a request has a smaller bound.
    let bearer = format!("Bearer {}", "x".repeat(10_000));
    let request = grpc_post(GET_PROFILE).header("authorization", bearer).body(String::new()).unwrap();
    assert_eq!(http2_request(server.addr, request).await.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_url_is_refused_although_it_is_valid() {
    let callers = CallersFile::new();
    let token = callers.add("crm", &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let target = format!("{WORKSPACE}/1?access_token={token}");
    let refused = http(server.addr, "GET", &target, &[], "").await;
    assert_eq!(refused.status, 401);
    let bearer = format!("Bearer {token}");
    let refused = http(server.addr, "GET", &target, &[("authorization", &bearer)], "").await;
    assert_eq!(refused.status, 401);
    assert!(!String::from_utf8_lossy(&refused.body).contains(&token));
}

/// Health is for balancers, and reflection for people who look around: neither shows data.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_need_no_credential() {
    let callers = CallersFile::new();
    callers.add("crm", &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let check = frame(&tonic_health::pb::HealthCheckRequest::default());
    let answer = grpc_request(server.addr, "/grpc.health.v1.Health/Check", check).await;
    assert_eq!(answer.header("grpc-status"), "0");
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(grpc_request(server.addr, path, Vec::new()).await.header("grpc-status"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_and_its_streams_end_with_their_cursor() {
    let callers = CallersFile::new();
    let token = callers.add("mail", &["subscriber", "writer"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let client = Client::connect_with(server.addr, &token).await;
    let heartbeat_interval = seconds(1);
    let request = cameo::proto::v1::SubscribeRequest { heartbeat_interval, ..subscribe_request() };
    let mut stream = client.subscribe(request).await.unwrap();
    stream.opened().await;
    let mut revoke = binary();
    revoke.args(["token", "revoke", "--name", "mail", "--file"]).arg(callers.path());
    assert!(output(&mut revoke).await.status.success());
    let end = stream.failure().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
    assert!(!metadata(&end, "cursor").is_empty(), "{end:?}");
    assert_eq!(client.get(ADA).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_credential_expires() {
    let callers = CallersFile::new();
    let flags = ["--workspace", WORKSPACE, "--expires", "3s"];
    let token = callers.add_with("mail", &["subscriber"], &flags).await;
    let server = TestServer::start_with(callers.require()).await;
    let client = Client::connect_with(server.addr, &token).await;
    let heartbeat_interval = seconds(1);
    let request = cameo::proto::v1::SubscribeRequest { heartbeat_interval, ..subscribe_request() };
    let mut stream = client.subscribe(request).await.unwrap();
    stream.opened().await;
    let end = stream.failure().await;
    assert_eq!(end.code(), Code::Unauthenticated, "{end:?}");
}

/// An import may be open for hours.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_ends_when_its_token_is_revoked() {
    let callers = CallersFile::new();
    let (token, other) = (callers.add("crm", &["writer"]).await, callers.add("shop", &["reader"]).await);
    let server = TestServer::start_with(callers.require()).await;
    let (records, received) = mpsc::channel(1);
    let mut profiles = Client::connect_with(server.addr, &token).await.profiles;
    let sent = stream::unfold(received, async |mut received| Some((received.recv().await?, received)));
    let import = tokio::spawn(async move { profiles.import_profiles(sent).await });
    records.send(record(by_mpid(ADA), set([("plan", text("pro"))]))).await.unwrap();
    let reader = Client::connect_with(server.addr, &other).await;
    within(async { while reader.get(ADA).await.is_err() {} }).await;

    callers.revoke(&token).await;
    while records.send(record(by_mpid(ADA), increment("n"))).await.is_ok() {}

    let end = within(import).await.unwrap().unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
    let records: u32 = metadata(&end, "records").parse().unwrap();
    assert_number(&reader.get(ADA).await.unwrap(), "n", (records - 1).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_need_the_operator_unless_they_are_open() {
    let callers = CallersFile::new();
    let operator = callers.add_with("watch", &["operator"], &["--workspace", "*/*/*"]).await;
    let of_one_workspace = callers.add("watch", &["operator"]).await;
    let reader = callers.add_with("crm", &["reader"], &["--workspace", "*/*/*"]).await;
    let server = callers.server_with(metrics_on).await;
    let get = async |path: &str, token: Option<&str>| {
        let mut request = hyper::Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        http_request(server.metrics_addr.unwrap(), request.body(String::new()).unwrap()).await.status
    };
    assert_eq!(get("/metrics", None).await, 401);
    assert_eq!(get("/metrics", Some(MADE_UP)).await, 401);
    assert_eq!(get("/metrics", Some(&reader)).await, 403);
    assert_eq!(get("/metrics", Some(&of_one_workspace)).await, 403, "metrics name every workspace");
    assert_eq!(get("/metrics", Some(&operator)).await, 200);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(path, None).await, 200, "{path}");
    }
    let open = callers
        .server_with(|config| {
            metrics_on(config);
            config.auth.metrics_open = true;
        })
        .await;
    open.metrics().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_can_be_turned_off() {
    let server = TestServer::start_with(|config| config.auth.reflection = false).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let answer = within(grpc_request(server.addr, &path, Vec::new())).await;
        assert_eq!(answer.header("grpc-status"), "12", "{version}");
    }
}

/// The time that a server may take to read the file again, with room to spare.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_accepted_without_a_restart() {
    let callers = CallersFile::new();
    callers.add("crm", &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let client = Client::connect_with(server.addr, &callers.add("cms", &["reader"]).await).await;
    let known = async {
        while client.get(ADA).await.unwrap_err().code() == Code::Unauthenticated {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(known).await;
    assert_eq!(client.get(ADA).await.unwrap_err().code(), Code::NotFound);
}
