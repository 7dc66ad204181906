//! What the edge has to know of each method, by its name.

use std::sync::LazyLock;

use crate::auth::Access;
use crate::server::budget::Size;
use crate::telemetry::metrics::{self, Streams};

/// What the edge has to know of a method.
#[derive(Debug)]
pub(super) struct Method {
    /// As logs and metrics name it.
    pub counted: metrics::Method,
    pub streams: Streams,
    pub is_write: bool,
    is_health_check: bool,
    /// What it asks of its callers.
    pub access: Option<Access>,
    /// How large its response may become.
    pub size: Size,
}

impl Method {
    /// Whether there is such a method.
    pub fn exists(&self) -> bool {
        self.counted != metrics::Method::unknown()
    }

    /// Whether it is a health check.
    pub fn is_health_check(&self) -> bool {
        self.is_health_check
    }
}

/// How the names of writes begin.
const WRITES: [&str; 12] = [
    "Create",
    "Update",
    "Delete",
    "Erase",
    "Import",
    "Identify",
    "Merge",
    "Unmerge",
    "Add",
    "Remove",
    "Seek",
    "Acknowledge",
];

static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| metrics::Method::all().map(describe).collect());

/// The method at a path.
pub(super) fn at(path: &str) -> &'static Method {
    &METHODS[metrics::Method::of_path(path).index()]
}

fn describe(counted: metrics::Method) -> Method {
    let method = counted.name().rsplit('/').next().unwrap_or_default();
    let starts_with = |verbs: &[&str]| verbs.iter().any(|verb| method.starts_with(verb));
    Method {
        counted,
        streams: counted.streams(),
        is_write: starts_with(&WRITES),
        access: Access::of(counted.name()),
        is_health_check: counted.name() == "grpc.health.v1.Health/Check",
        size: match method {
            list if list.starts_with("List") => Size::Page,
            "BatchGetProfiles" => Size::Large,
            _ => Size::Small,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_what_its_name_says() {
        let import = at("/cameo.v1.ProfileService/ImportProfiles");
        assert_eq!(import.counted.name(), "ProfileService/ImportProfiles");
        assert!(import.streams.client && !import.streams.server && import.is_write);
        let list = at("/cameo.v1.ProfileService/ListProfiles");
        assert!(list.size == Size::Page && !list.is_write);
        assert!(at("/cameo.v1.ProfileService/BatchGetProfiles").size == Size::Large);
        assert!(at("/cameo.v1.EventService/Subscribe").streams.server);
        assert!(at("/grpc.health.v1.Health/Check").is_health_check() && !import.is_health_check());
        assert!(!at("/grpc.health.v1.Health/Watch").is_health_check(), "it is a stream like others");
        assert!(!at("/cameo.v1.ProfileService/Nothing").exists() && import.exists());
        assert!(at("/userprofile/v1/resolve/a/b/c").size == Size::Small);
    }
}
