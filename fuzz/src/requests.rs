//! Target: any bytes as the request of any RPC. The first line of an input names the RPC, such as
//! `ProfileService/GetProfile`. The rest is the message. An import sends it twice.
//!
//! The request is decoded, parsed and run by the services of the server on a store with a few profiles. It is only
//! validated if it is a write.
//!
//! - Nothing panics, and no call takes long.
//! - A message that decodes is served, or refused as a mistake of the caller: it is no failure of the server. One that
//!   the descriptors do not decode is refused.
//! - The responses decode as what the RPC returns.
//! - A refusal holds no value of an identity.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use cameo::proto::DESCRIPTORS;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage, Value};
use tonic::{Code, Status};

use super::service::{Reply, SERVICE};

/// The RPCs by their names.
pub static METHODS: LazyLock<BTreeMap<String, MethodDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build made these descriptors");
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == PACKAGE).collect();
    let methods = services.iter().flat_map(|service| service.methods().map(|method| (service.name(), method)));
    methods.map(|(service, method)| (format!("{service}/{}", method.name()), method)).collect()
});

const PACKAGE: &str = "cameo.v1";
/// It has an empty request, and copies the file of the store.
pub const WITHOUT_INPUT: &str = "AdminService/Compact";
/// What a request by itself must not lead to.
const FAILURES: [Code; 5] = [Code::Unknown, Code::Unimplemented, Code::Internal, Code::Unavailable, Code::DataLoss];
/// What the codec says of a message that prost does not decode, which the edge of the server makes a refusal. prost takes
/// a field of another wire type for an error, and the descriptors take it for an unknown field.
const UNDECODABLE: &str = "undecodable";
/// A part of an identity's value that stands nowhere else in a request or in the API.
const MARKER: &[u8] = b"hunter2";

pub fn run(input: &[u8]) {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let name = std::str::from_utf8(&input[..end]).unwrap_or_default();
    let Some(method) = METHODS.get(name).filter(|_| name != WITHOUT_INPUT) else { return };
    let message = &input[end + 1..];
    match DynamicMessage::decode(method.input(), message) {
        Ok(request) => {
            let Reply { status, messages } = call(name, method, &validated(method, message));
            assert!(!FAILURES.contains(&status.code()) || status.message() == UNDECODABLE, "{status:?}");
            for message in messages {
                DynamicMessage::decode(method.output(), message).expect("it is what the RPC returns");
            }
            assert!(is_silent(&status, &request, message), "{status:?} holds a value");
        }
        Err(_) => assert_ne!(call(name, method, message).status.code(), Code::Ok, "it does not decode"),
    }
}

fn call(name: &str, method: &MethodDescriptor, message: &[u8]) -> Reply {
    let messages = if method.is_client_streaming() { &[message, message][..] } else { &[message] };
    SERVICE.grpc(&format!("/{PACKAGE}.{name}"), messages, method.is_server_streaming())
}

/// The request with `validate_only`, if it has the field. The last value of a field counts.
fn validated(method: &MethodDescriptor, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(field) = method.input().get_field_by_name("validate_only") {
        prost::encoding::bool::encode(field.number(), &true, &mut message);
    }
    message
}

/// Whether a status holds no value of an identity. Only values with the marker tell, and only if the marker stands
/// nowhere else: what else a caller sent may be quoted.
fn is_silent(status: &Status, request: &DynamicMessage, message: &[u8]) -> bool {
    let all = count(message);
    all == 0 || all > in_identities(request) || count(status.message().as_bytes()) + count(status.details()) == 0
}

fn count(bytes: &[u8]) -> usize {
    bytes.windows(MARKER.len()).filter(|part| *part == MARKER).count()
}

/// How often the marker stands in values of identities.
fn in_identities(message: &DynamicMessage) -> usize {
    let is_identity = message.descriptor().full_name() == "cameo.v1.Identity";
    let own = message.get_field_by_name("value").filter(|_| is_identity);
    let own = own.and_then(|value| value.as_str().map(|value| count(value.as_bytes()))).unwrap_or_default();
    own + message.fields().map(|(_, value)| in_value(value)).sum::<usize>()
}

fn in_value(value: &Value) -> usize {
    match value {
        Value::Message(message) => in_identities(message),
        Value::List(list) => list.iter().map(in_value).sum(),
        Value::Map(map) => map.values().map(in_value).sum(),
        _ => 0,
    }
}
