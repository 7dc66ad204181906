//! Whom quotas tell apart.

use std::net::IpAddr;
use std::sync::Arc;

/// Who shares one quota: all that one caller does, or, on a server without authentication, all that comes from one
/// address. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// The name of a caller.
    Caller(Arc<str>),
    /// An IP address.
    Address(IpAddr),
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical()) // An IPv4 address is the same client on a socket of either kind.
    }
}
