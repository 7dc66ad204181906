//! The methods of the gRPC services, from their descriptors.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::proto::DESCRIPTORS;
use crate::server::budget::Size;
use crate::telemetry::metrics;

/// What the edge has to know of a method.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub(super) struct Method {
    /// As logs and metrics name it.
    pub counted: metrics::Method,
    pub client_streaming: bool,
    pub server_streaming: bool,
    pub is_write: bool,
    is_health: bool,
    /// How large its response may become.
    pub size: Size,
}

impl Method {
    /// Whether there is such a method.
    pub fn exists(&self) -> bool {
        self.counted != metrics::Method::unknown()
    }

    /// Whether it is a health check.
    pub fn is_health(&self) -> bool {
        self.is_health
    }
}

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
                let described = describe(&path, method);
                methods.insert(path, described);
            }
        }
    }
    methods
});

/// The method at a path.
pub(super) fn at(path: &str) -> Method {
    let other = || Method {
        counted: metrics::Method::of_path(path),
        client_streaming: false,
        server_streaming: false,
        is_write: false,
        is_health: false,
        size: Size::Small,
    };
    METHODS.get(path).copied().unwrap_or_else(other)
}

fn describe(path: &str, method: &MethodDescriptorProto) -> Method {
    let starts_with = |verbs: &[&str]| verbs.iter().any(|verb| method.name().starts_with(verb));
    Method {
        counted: metrics::Method::of_path(path),
        client_streaming: method.client_streaming(),
        server_streaming: method.server_streaming(),
        is_write: starts_with(&["Create", "Update", "Delete", "Import"]),
        is_health: path.starts_with("/grpc.health.v1."),
        size: if starts_with(&["List"]) {
            Size::Page
        } else if starts_with(&["BatchGet"]) {
            Size::Large
        } else {
            Size::Small
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_by_its_path() {
        let import = at("/cameo.v1.ProfileService/ImportProfiles");
        assert_eq!(import.counted.name(), "ProfileService/ImportProfiles");
        assert!(import.client_streaming && !import.server_streaming && import.is_write);
        let list = at("/cameo.v1.ProfileService/ListProfiles");
        assert!(list.size == Size::Page && !list.is_write);
        assert!(at("/cameo.v1.EventService/Subscribe").server_streaming);
        assert!(at("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo").client_streaming);
        assert!(at("/grpc.health.v1.Health/Check").is_health() && !import.is_health());
        assert!(!at("/cameo.v1.ProfileService/Nothing").exists() && import.exists());
    }
}
