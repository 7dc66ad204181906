//! The methods that metrics are counted by: a fixed list, so that a path which a caller makes up is no label.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::proto::DESCRIPTORS;

/// The package of the API. Its methods are named without it, as in the log: `ProfileService/GetProfile`.
const PACKAGE: &str = "cameo.v1";
/// The methods of the services that come with tonic, by their paths.
const OTHERS: [(&str, Streams); 4] = [
    ("/grpc.health.v1.Health/Check", Streams { client: false, server: false }),
    ("/grpc.health.v1.Health/Watch", Streams { client: false, server: true }),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Streams { client: true, server: true }),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Streams { client: true, server: true }),
];
const LOOKUP: &str = "/userprofile/v1/{org}/{account}/{workspace}/{mpid}";
const RESOLVE: &str = "/userprofile/v1/resolve/{org}/{account}/{workspace}";
const UNKNOWN: &str = "unknown";

/// A method of the API: an RPC, a route of the Profile API, or `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(usize);

/// Which side sends a stream of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Streams {
    /// The client does.
    pub client: bool,
    /// The server does.
    pub server: bool,
}

/// What is known of a method.
struct Facts {
    path: String,
    name: String,
    /// The code of a call that succeeds.
    success: &'static str,
    streams: Streams,
}

/// The methods in the order of their numbers, `unknown` last.
struct Methods {
    facts: Vec<Facts>,
    by_path: HashMap<String, Method>,
    lookup: Method,
    resolve: Method,
}

static METHODS: LazyLock<Methods> = LazyLock::new(Methods::list);

impl Method {
    /// The method with this path. This costs a look into a map, and no allocation.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let exact = METHODS.by_path.get(path).copied();
        exact.or_else(|| of_profile_api(path)).unwrap_or_else(Self::unknown)
    }

    /// What a request for another path counts as.
    #[must_use]
    pub fn unknown() -> Self {
        Self(METHODS.facts.len() - 1)
    }

    /// Its name, in the label `method` and in the log: `ProfileService/GetProfile`, or the route of the Profile API.
    #[must_use]
    pub fn name(self) -> &'static str {
        &METHODS.facts[self.0].name
    }

    /// Its name with the package of its service, if it is an RPC: `cameo.v1.ProfileService/GetProfile`.
    #[must_use]
    pub fn rpc(self) -> Option<&'static str> {
        METHODS.facts[self.0].path.strip_prefix('/').filter(|_| self.route().is_none())
    }

    /// Its route, if it is one of the Profile API.
    #[must_use]
    pub fn route(self) -> Option<&'static str> {
        Some(self.name()).filter(|name| name.starts_with('/'))
    }

    /// Who sends a stream.
    #[must_use]
    pub fn streams(self) -> Streams {
        METHODS.facts[self.0].streams
    }

    /// Whether its calls have a latency. How long a stream takes says nothing about the server.
    pub(super) fn has_latency(self) -> bool {
        self.streams() == Streams::default()
    }

    /// The code of a call that succeeds: `OK`, or `200` over HTTP.
    pub(super) fn success(self) -> &'static str {
        METHODS.facts[self.0].success
    }

    /// Its number, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }

    /// All methods, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..METHODS.facts.len()).map(Self)
    }
}

fn of_profile_api(path: &str) -> Option<Method> {
    let segments = path.strip_prefix("/userprofile/v1/")?;
    if segments.split('/').count() != 4 {
        return None;
    }
    Some(if segments.starts_with("resolve/") { METHODS.resolve } else { METHODS.lookup })
}

impl Methods {
    fn list() -> Self {
        let (mut facts, mut by_path) = (Vec::new(), HashMap::new());
        let mut add = |path: String, name: &str, success, streams| {
            let method = Method(facts.len());
            facts.push(Facts { path: path.clone(), name: name.to_owned(), success, streams });
            by_path.insert(path, method);
            method
        };
        for (path, streams) in rpcs() {
            let name = path.trim_start_matches('/').trim_start_matches(PACKAGE).trim_start_matches('.').to_owned();
            add(path, &name, "OK", streams);
        }
        for (path, streams) in OTHERS {
            add(path.to_owned(), &path[1..], "OK", streams);
        }
        let lookup = add(LOOKUP.to_owned(), LOOKUP, "200", Streams::default());
        let resolve = add(RESOLVE.to_owned(), RESOLVE, "200", Streams::default());
        add(UNKNOWN.to_owned(), UNKNOWN, "OK", Streams::default());
        Self { facts, by_path, lookup, resolve }
    }
}

/// The path of each RPC of the API, and who sends a stream.
fn rpcs() -> impl Iterator<Item = (String, Streams)> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the build wrote them").file;
    files.into_iter().filter(|file| file.package() == PACKAGE).flat_map(|file| file.service).flat_map(|service| {
        let path = format!("/{PACKAGE}.{}/", service.name());
        service.method.into_iter().map(move |method| (path.clone() + method.name(), streams_of(&method)))
    })
}

fn streams_of(method: &MethodDescriptorProto) -> Streams {
    Streams { client: method.client_streaming(), server: method.server_streaming() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_rpcs_are_those_of_the_services() {
        for (path, name, streams) in [
            ("/cameo.v1.ProfileService/GetProfile", "ProfileService/GetProfile", (false, false)),
            ("/cameo.v1.ProfileService/ImportProfiles", "ProfileService/ImportProfiles", (true, false)),
            ("/cameo.v1.EventService/Subscribe", "EventService/Subscribe", (false, true)),
            ("/cameo.v1.AdminService/GetStatus", "AdminService/GetStatus", (false, false)),
            ("/grpc.health.v1.Health/Check", "grpc.health.v1.Health/Check", (false, false)),
        ] {
            let method = Method::of_path(path);
            let found = method.streams();
            assert_eq!((method.name(), (found.client, found.server)), (name, streams));
        }
        let names: BTreeSet<_> = Method::all().map(Method::name).collect();
        assert_eq!(names.len(), Method::all().count(), "no two have the same name");
    }

    /// The services that come with tonic are listed by hand.
    #[test]
    fn the_other_services_are_those_of_tonic() {
        let sets = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut served = BTreeSet::new();
        for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file) {
            for service in &file.service {
                served.extend(service.method.iter().map(|method| {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    (path, streams_of(method))
                }));
            }
        }
        assert_eq!(served, OTHERS.map(|(path, streams)| (path.to_owned(), streams)).into());
    }

    #[test]
    fn the_routes_of_the_profile_api_have_their_templates_as_names() {
        assert_eq!(Method::of_path("/userprofile/v1/acme/main/web/42").name(), LOOKUP);
        assert_eq!(Method::of_path("/userprofile/v1/resolve/acme/main/web").name(), RESOLVE);
    }

    #[test]
    fn a_method_is_an_rpc_a_route_or_neither() {
        for (path, rpc, route) in [
            ("/cameo.v1.ProfileService/GetProfile", Some("cameo.v1.ProfileService/GetProfile"), None),
            ("/grpc.health.v1.Health/Check", Some("grpc.health.v1.Health/Check"), None),
            ("/userprofile/v1/acme/main/web/42", None, Some(LOOKUP)),
            ("/userprofile/v1/resolve/acme/main/web", None, Some(RESOLVE)),
            ("/made/up", None, None),
        ] {
            let method = Method::of_path(path);
            assert_eq!((method.rpc(), method.route()), (rpc, route), "{path}");
        }
    }

    #[test]
    fn a_path_that_a_caller_makes_up_is_unknown() {
        for path in [
            "",
            "/",
            "*",
            "/cameo.v1.ProfileService/getprofile",
            "/cameo.v1.ProfileService/GetProfile/",
            "/cameo.v1.ProfileService/NoSuchMethod",
            "/userprofile/v1/acme/main/web",
            "/userprofile/v1/acme/main/web/42/more",
            "/userprofile/v2/acme/main/web/42",
        ] {
            assert_eq!(Method::of_path(path).name(), "unknown", "{path}");
        }
    }
}
