//! Reflection: how grpcurl and its like learn the API.

use futures_util::{StreamExt, stream};
use prost::Message;
use prost_types::FileDescriptorProto;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::*;

async fn ask(server: &TestServer, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel(server.addr).await);
    let answers = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answers: Vec<ServerReflectionResponse> = answers.map(Result::unwrap).collect().await;
    answers.into_iter().next().unwrap().message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = TestServer::start().await;
    let listed = within(ask(&server, MessageRequest::ListServices(String::new()))).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["ProfileService", "EventService", "AdminService"] {
        assert!(names.contains(&&*format!("cameo.v1.{service}")), "{names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

/// With their comments, which are the reference, and with the details of errors, so that grpcurl shows those.
#[tokio::test]
async fn reflection_describes_messages_and_the_details_of_errors() {
    let server = TestServer::start().await;
    for (symbol, file) in
        [("cameo.v1.Profile", "cameo/v1/profile.proto"), ("google.rpc.ErrorInfo", "google/rpc/error_details.proto")]
    {
        let described = within(ask(&server, MessageRequest::FileContainingSymbol(symbol.into()))).await;
        let MessageResponse::FileDescriptorResponse(described) = described else { panic!("{described:?}") };
        let description = FileDescriptorProto::decode(&*described.file_descriptor_proto[0]).unwrap();
        assert_eq!(description.name(), file);
        let comments = description.source_code_info.unwrap_or_default().location;
        assert!(comments.iter().any(|location| !location.leading_comments().is_empty()), "{symbol} has comments");
    }
}
