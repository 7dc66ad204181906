//! Callers that are named by their client certificates.

use hyper::Request;
use tonic::Code;

use crate::harness::*;

/// A name of the certificates that [`Ca::issue`] makes.
const NAME: &str = "dns:localhost";

/// A server that verifies the certificates of clients and asks for credentials.
async fn server(files: &TlsFiles, callers: &CallersFile) -> TestServer {
    TestServer::start_with(|config| {
        files.verify_clients(config);
        callers.require()(config);
        metrics_on(config);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_caller_unless_a_token_does() {
    let (files, callers) = (TlsFiles::new(), CallersFile::new());
    let reader = callers.add("shop", &["reader"]).await;
    callers.add_certificate("mesh", &["writer"], NAME);
    let server = server(&files, &callers).await;
    let mesh = files.client().presents(files.client_ca.issue());
    let channel = mesh.channel(server.addr).await.unwrap();
    let client = Client::on(channel.clone());
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(client.get(ADA).await.unwrap_err().code(), Code::PermissionDenied, "it is no reader");

    let with_token = |token: &str| Client::with(channel.clone(), Credential::token(token));
    assert_eq!(with_token(&reader).get(ADA).await.unwrap().mpid, ADA, "the token counts");
    let wrong = with_token("not-a-token").create(with_mpid(GRACE)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::Unauthenticated, "also if it is wrong");
    let nobody = files.client().services(server.addr).await.unwrap();
    assert_eq!(nobody.get(ADA).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_nobody_is_refused() {
    let (files, callers) = (TlsFiles::new(), CallersFile::new());
    callers.add_certificate("mesh", &["reader"], "dns:mesh.internal");
    let server = server(&files, &callers).await;
    let stranger = files.client().presents(files.client_ca.issue()).services(server.addr).await.unwrap();
    assert_eq!(stranger.get(ADA).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_an_operator_opens_the_metrics() {
    let (files, callers) = (TlsFiles::new(), CallersFile::new());
    callers.add_certificate("watch", &["operator"], NAME);
    let server = server(&files, &callers).await;
    let status = async |client: TlsClient| {
        let connection = client.offers(&[]).connect(server.metrics_addr.unwrap()).await.unwrap();
        http_request_on(connection, Request::get("/metrics").body(String::new()).unwrap()).await.status
    };
    assert_eq!(status(files.client().presents(files.client_ca.issue())).await, 200);
    assert_eq!(status(files.client()).await, 401);
}
