//! The methods of the gRPC services, from their descriptors.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::http;
use crate::proto::DESCRIPTORS;
use crate::server::budget::Size;

/// What the edge has to know of a method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    /// As logs and metrics name it: `ProfileService/GetProfile`.
    pub name: &'static str,
    pub client_streaming: bool,
    pub server_streaming: bool,
    pub is_write: bool,
    /// How large its response may become.
    pub size: Size,
}

impl Method {
    /// Whether there is such a method.
    pub fn exists(&self) -> bool {
        self.name != UNKNOWN
    }

    /// Whether it is a health check.
    pub fn is_health(&self) -> bool {
        self.name.starts_with("Health/")
    }
}

/// The name of all paths that lead nowhere: a made-up path must not become a label.
const UNKNOWN: &str = "unknown";

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let sets = [
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.map(|set| FileDescriptorSet::decode(set).expect("generated descriptors decode").file);
    let mut methods = HashMap::new();
    for file in files.iter().flatten() {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path, describe(service.name(), method));
            }
        }
    }
    methods
});

/// The method at a path.
pub(super) fn at(path: &str) -> Method {
    let other = || Method {
        name: http::route(path).unwrap_or(UNKNOWN),
        client_streaming: false,
        server_streaming: false,
        is_write: false,
        size: Size::Small,
    };
    METHODS.get(path).copied().unwrap_or_else(other)
}

fn describe(service: &str, method: &MethodDescriptorProto) -> Method {
    let starts_with = |verbs: &[&str]| verbs.iter().any(|verb| method.name().starts_with(verb));
    Method {
        name: format!("{service}/{}", method.name()).leak(), // Once for each method.
        client_streaming: method.client_streaming(),
        server_streaming: method.server_streaming(),
        is_write: starts_with(&["Create", "Update", "Delete", "Import"]),
        size: if starts_with(&["List", "BatchGet"]) { Size::Large } else { Size::Small },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_by_its_path() {
        let import = at("/cameo.v1.ProfileService/ImportProfiles");
        assert_eq!(import.name, "ProfileService/ImportProfiles");
        assert!(import.client_streaming && !import.server_streaming && import.is_write);
        let list = at("/cameo.v1.ProfileService/ListProfiles");
        assert!(list.size == Size::Large && !list.is_write);
        assert!(at("/cameo.v1.EventService/Subscribe").server_streaming);
        assert!(at("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo").client_streaming);
        assert_eq!(at("/grpc.health.v1.Health/Check").name, "Health/Check");
        assert_eq!(at("/cameo.v1.ProfileService/Nothing").name, "unknown");
        assert_eq!(at("/userprofile/v1/resolve/a/b/c").name, "/userprofile/v1/resolve/{org}/{account}/{workspace}");
        assert_eq!(at("/userprofile/v1/a/b/c/7").name, "/userprofile/v1/{org}/{account}/{workspace}/{mpid}");
    }
}
