//! Methods and content types on the paths of gRPC.

use bytes::Bytes;
use cameo::proto::v1::*;
use http_body_util::Full;
use hyper::Version;

use crate::harness::*;

const H1: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;

async fn send(server: &TestServer, version: Version, method: &str, content_type: &str) -> HttpResponse {
    let key = Some(by_mpid(UNKNOWN_MPID));
    let body = frame(&GetProfileRequest { key, ..get_request() });
    let mut request = hyper::Request::builder().method(method).uri(GET_PROFILE);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    if version == H2 { http2_request(server.addr, request).await } else { http_request(server.addr, request).await }
}

#[tokio::test]
async fn what_is_not_grpc_gets_a_problem_document() {
    let unsupported = (415, "ENCODING_UNSUPPORTED");
    let not_allowed = (405, "METHOD_UNKNOWN");
    let rows = [
        ("POST", H1, "application/json", unsupported),
        ("POST", H2, "application/json", unsupported),
        ("POST", H2, "application/grpcX", unsupported),
        ("POST", H2, "application/grpc+json", unsupported),
        ("POST", H2, "application/grpc-webX", unsupported),
        ("POST", H2, "text/plain", unsupported),
        ("POST", H1, "application/x-www-form-urlencoded", unsupported),
        ("POST", H1, "", unsupported),
        ("POST", H2, "", unsupported),
        ("POST", H1, "application/grpc", unsupported),
        ("POST", H1, "application/grpc+proto", unsupported),
        ("GET", H2, "application/grpc", not_allowed),
        ("PUT", H2, "application/grpc", not_allowed),
        ("OPTIONS", H2, "application/grpc", not_allowed),
        ("GET", H1, "", not_allowed),
        ("OPTIONS", H1, "application/grpc-web", not_allowed),
    ];
    let server = TestServer::start().await;
    for (method, version, content_type, (status, reason)) in rows {
        let response = send(&server, version, method, content_type).await;
        let row = format!("{method} {version:?} {content_type:?}");
        assert_eq!(response.status, status, "{row}");
        assert_eq!(response.header("content-type"), "application/problem+json", "{row}");
        assert_eq!(response.header("allow"), if status == 405 { "POST" } else { "" }, "{row}");
        let problem = response.json();
        assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &reason.into()), "{row}");
    }
}

/// A body after the response to a HEAD would break the protocol.
#[tokio::test]
async fn a_head_that_is_refused_gets_no_body() {
    let server = TestServer::start().await;
    let response = send(&server, H1, "HEAD", "").await;
    assert_eq!((response.status, response.header("allow"), response.body.len()), (405, "POST", 0));
    let mut connection = Unread::with_window(server.addr, 1_000).await;
    let request = hyper::Request::head(format!("http://{}{GET_PROFILE}", server.addr)).body(()).unwrap();
    let response = within(connection.ask(request).await).await.unwrap();
    assert_eq!(response.status(), 405);
    assert!(within(response.into_body().data()).await.is_none());
}

#[tokio::test]
async fn the_content_types_of_grpc_reach_the_service() {
    const NOT_FOUND: &str = "5";
    let rows = ["application/grpc", "application/grpc+proto", "Application/gRPC", "application/grpc; charset=utf-8"];
    let server = TestServer::start().await;
    for content_type in rows {
        let response = send(&server, H2, "POST", content_type).await;
        assert_eq!((response.status, response.header("grpc-status")), (200, NOT_FOUND), "{content_type}");
    }
}

#[tokio::test]
async fn a_unary_call_has_one_message() {
    let server = TestServer::start().await;
    server.client().await.create(ada()).await.unwrap();
    let one = frame(&GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() });
    let served = grpc_request(server.addr, GET_PROFILE, one.clone()).await;
    assert_eq!(served.header("grpc-status"), "0");

    let refused = grpc_request(server.addr, GET_PROFILE, [one.clone(), one].concat()).await;

    let status = tonic::Status::from_header_map(&refused.headers).unwrap();
    assert_refused(Err::<(), _>(status), tonic::Code::InvalidArgument, "FIELD_INVALID", "");
}
