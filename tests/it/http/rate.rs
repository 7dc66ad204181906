//! The rate of requests, and that nothing gets around it.

use super::*;

/// Each workspace has a rate of its own. A caller that asks too often is told when to come back.
#[tokio::test]
async fn a_workspace_that_asks_too_often_gets_429_and_when_to_come_back() {
    const PER_SECOND: u32 = 3;
    const REQUESTS: usize = 60;
    let server = TestServer::start_with(http_rate(PER_SECOND)).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let elsewhere = CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() };
    client.create_with(elsewhere).await.unwrap();

    let mut responses = Vec::new();
    for _ in 0..REQUESTS {
        responses.push(get(&server, &ADA).await);
    }
    let (refused, answered): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 429);
    assert!(answered.len() >= PER_SECOND as usize, "the burst gets through");
    assert_eq!(answered.iter().filter(|response| response.status != 200).count(), 0);
    let refused = refused.first().expect("60 requests take less than the 20 seconds that the rate allows for them");
    assert_problem(refused, 429, "RATE_LIMITED", "");
    assert_eq!(refused.header("retry-after"), "1");
    let other = format!("{OTHER_WORKSPACE}/{UNKNOWN_MPID}");
    assert_eq!(http(server.addr, "GET", &other, &[], "").await.status, 404, "the other workspace has its own rate");
    assert_eq!(client.get(ADA).await.unwrap().mpid, ADA, "gRPC is not limited");
}

/// Requests per second in the tests that try to get around the rate.
const RATE: u32 = 1;
/// How many requests they send: many more than the rate allows in the time that they take.
const FLOOD: usize = 60;

/// A server with that rate, which holds Ada's profile.
async fn with_rate() -> TestServer {
    let server = TestServer::start_with(http_rate(RATE)).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    server
}

/// Sends a flood of requests, each a method, a path and a body. Asserts that together they keep to one rate, and that
/// each refused one is told when to come back.
async fn assert_one_rate(server: &TestServer, request: impl Fn(usize) -> (&'static str, String, &'static str)) {
    let begun = Instant::now();
    let mut passed = 0;
    for n in 0..FLOOD {
        let (method, path, body) = request(n);
        let request = hyper::Request::builder().method(method).uri(path).body(body.to_owned()).unwrap();
        let response = http_request(server.addr, request).await;
        if response.status != 429 {
            passed += 1;
            continue;
        }
        assert_eq!(response.header("retry-after"), "1");
        if method != "HEAD" {
            assert_problem(&response, 429, "RATE_LIMITED", "");
        }
    }
    let allowed = u64::from(RATE) * (begun.elapsed().as_secs() + 2); // The burst, and a second that has begun.
    assert!(passed <= allowed, "{passed} requests passed, instead of {allowed}, such as {:?}", request(0));
}

fn v1(target: &str) -> String {
    format!("/userprofile/v1/{target}")
}

#[tokio::test]
async fn workspaces_that_do_not_exist_share_one_rate() {
    let server = with_rate().await;
    assert_one_rate(&server, |n| ("GET", v1(&format!("acme/main/w{n}/1")), "")).await;
    assert_eq!(get(&server, &ADA).await.status, 200, "a workspace that exists has its own rate");
}

#[tokio::test]
async fn a_body_in_an_unknown_encoding_counts_too() {
    let server = with_rate().await;
    let mut seen = 0;
    within(async {
        loop {
            let response =
                http(server.addr, "POST", &format!("{WORKSPACE}/{ADA}"), &[("content-encoding", "br")], "x").await;
            seen += 1;
            if response.status == 429 {
                return;
            }
            assert_eq!(response.status, 415);
        }
    })
    .await;
    assert!(seen <= FLOOD, "{seen}");
}

#[tokio::test]
async fn workspaces_that_cannot_be_parsed_share_that_rate() {
    let names =
        ["acme/main/w%20b/1", "acme/main/%ff/1", "acme/main%2Fweb/x/1", "resolve/acme/main/ü", "acme/main/gone/1"];
    let server = with_rate().await;
    assert_one_rate(&server, |n| ("POST", v1(&names[n % names.len()].replace('ü', "%C3%BC")), "")).await;
    assert_eq!(get(&server, &ADA).await.status, 200, "a workspace that exists has its own rate");
}

#[tokio::test]
async fn paths_that_lead_nowhere_share_that_rate() {
    let paths = [
        "/userprofile",
        "/userprofile/",
        "/userprofile/v2/a",
        "/userprofile/v1/acme/main/web",
        "/userprofile/v1/acme/main/gone/1",
    ];
    let server = with_rate().await;
    let methods = ["GET", "PUT", "HEAD"];
    assert_one_rate(&server, |n| (methods[n % methods.len()], paths[n % paths.len()].to_owned(), "")).await;
    assert_eq!(get(&server, &ADA).await.status, 200, "a workspace that exists has its own rate");
}

#[tokio::test]
async fn what_fails_to_parse_counts_in_the_rate_of_its_workspace() {
    for (method, target, body) in [
        ("GET", format!("{WORKSPACE}/one"), ""),
        ("GET", format!("{WORKSPACE}/0"), ""),
        ("GET", format!("{WORKSPACE}/{ADA}?fields=emial"), ""),
        ("GET", format!("{WORKSPACE}/{ADA}?mpid_as=hex"), ""),
        ("GET", format!("{}/{ADA}", WORKSPACE.replace("web", "%77eb")), ""),
        ("PUT", format!("{WORKSPACE}/{ADA}"), ""),
        ("GET", format!("resolve/{WORKSPACE}"), ""),
        ("POST", format!("resolve/{WORKSPACE}"), "garbled"),
        ("POST", format!("resolve/{WORKSPACE}?fields=emial"), ""),
    ] {
        let server = with_rate().await;
        let lookup = v1(&format!("{WORKSPACE}/{ADA}"));
        // Every other request is in order.
        assert_one_rate(&server, |n| match n % 2 {
            0 => (method, v1(&target), body),
            _ => ("GET", lookup.clone(), ""),
        })
        .await;
        let other = http(server.addr, "GET", &format!("{OTHER_WORKSPACE}/1"), &[], "").await;
        assert_eq!(other.status, 404, "the shared rate is untouched");
    }
}
