//! The address to listen on: which addresses a name has, who can reach them, and which of them is bound.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::ServerError;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::config::units::Address;

/// Connections that may wait to be accepted. The system may set a lower limit.
const WAITING: u32 = 4096;

/// Looks the host up. Returns its addresses in the order in which to try them, at least one.
///
/// # Errors
/// If the host has no address, or the lookup failed.
pub async fn resolve(addr: &Address) -> io::Result<Vec<SocketAddr>> {
    let addrs = in_order(addr.host(), tokio::net::lookup_host(addr.as_str()).await?.collect());
    if addrs.is_empty() { Err(io::Error::new(ErrorKind::NotFound, "it has no address")) } else { Ok(addrs) }
}

/// The system's order, except that IPv4 comes first for `localhost`: people and other programs expect 127.0.0.1.
fn in_order(host: &str, mut addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        addrs.sort_by_key(SocketAddr::is_ipv6);
    }
    addrs
}

/// An address to listen on, and the flag that it comes from.
#[derive(Debug, Clone)]
pub struct Place {
    /// The flag, for what an error tells people to do.
    pub flag: &'static str,
    /// Its value.
    pub addr: Address,
    /// What else there is to do if it cannot be bound: the end of a sentence.
    pub otherwise: &'static str,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.flag, self.addr)
    }
}

/// What protects a server from those who can reach it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exposure {
    /// Others on the network can neither read nor change what is sent.
    pub encrypted: bool,
    /// Callers must show who they are.
    pub authenticated: bool,
    /// The operator accepts what is missing.
    pub insecure: bool,
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprotected {
    /// Encryption.
    Encryption,
    /// Authentication.
    Authentication,
    /// Both.
    Both,
}

impl Exposure {
    /// What the settings say.
    pub fn of(config: &Config, auth: &Authenticator) -> Self {
        Self {
            encrypted: config.tls.tls_cert.is_some(),
            authenticated: auth.is_required() || config.tls.tls_require_client_cert,
            insecure: config.server.insecure,
        }
    }

    fn unprotected(self) -> Option<Unprotected> {
        match (self.encrypted, self.authenticated) {
            (true, true) => None,
            (false, true) => Some(Unprotected::Encryption),
            (true, false) => Some(Unprotected::Authentication),
            (false, false) => Some(Unprotected::Both),
        }
    }
}

impl std::fmt::Display for Unprotected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Encryption => "no encryption",
            Self::Authentication => "no authentication",
            Self::Both => "no authentication and no encryption",
        })
    }
}

impl Unprotected {
    /// What others can do.
    fn consequence(self) -> &'static str {
        match self {
            Self::Encryption => "others on the network can read and change what is sent",
            Self::Authentication => "everyone who reaches this address is served",
            Self::Both => {
                "everyone who reaches this address is served, and others on the network can read and change what is sent"
            }
        }
    }

    /// The settings that supply it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Encryption => "set --tls-cert and --tls-key",
            Self::Authentication => "set --callers or --jwks",
            Self::Both => "set --tls-cert and --tls-key, and --callers or --jwks",
        }
    }
}

/// The addresses that may be bound.
///
/// # Errors
/// If the host cannot be found, or if one of its addresses can be reached from other machines and this is not allowed.
pub(super) async fn addresses(place: &Place, exposure: Exposure) -> Result<Vec<SocketAddr>, ServerError> {
    let addrs = resolve(&place.addr).await.map_err(|cause| ServerError::Resolve { place: place.clone(), cause })?;
    let (Some(found), Some(missing)) = (reachable(&addrs), exposure.unprotected()) else { return Ok(addrs) };
    if !exposure.insecure {
        return Err(ServerError::Reachable { place: place.clone(), found, missing });
    }
    tracing::warn!(flag = place.flag, addr = %found, "--insecure: there is {missing}: {}", missing.consequence());
    Ok(addrs)
}

/// The first address that other machines can reach.
fn reachable(addrs: &[SocketAddr]) -> Option<SocketAddr> {
    addrs.iter().copied().find(|addr| !addr.ip().to_canonical().is_loopback())
}

/// Binds the first of the addresses that can be bound.
///
/// # Errors
/// Why the last of them cannot be bound.
pub(super) fn bind(place: &Place, addrs: &[SocketAddr]) -> Result<TcpListener, ServerError> {
    let mut bound = Err(io::Error::from(ErrorKind::NotFound)); // There is an address, so another takes its place.
    for addr in addrs {
        bound = listen(*addr);
        if bound.is_ok() {
            break;
        }
    }
    bound.map_err(|cause| {
        let advice = advice(cause.kind());
        ServerError::Bind { place: place.clone(), cause, advice }
    })
}

/// The standard library would let 128 connections wait. When one more comes, the system drops the end of its handshake,
/// and a client that says nothing then keeps a connection that the server never sees.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // A server that has just stopped may be started again.
    socket.bind(addr)?;
    socket.listen(WAITING)
}

fn advice(cause: ErrorKind) -> &'static str {
    match cause {
        ErrorKind::AddrInUse => "Stop the process that listens there, or choose another address",
        ErrorKind::AddrNotAvailable => "Choose an address of this machine",
        ErrorKind::PermissionDenied => "Choose a port from 1024 on: lower ones need privileges",
        _ => "Choose another address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn one_address_that_others_can_reach_is_enough_to_need_insecure() {
        for loopback in [&["127.0.0.1:1"][..], &["[::1]:1", "127.9.9.9:1"], &["[::ffff:127.0.0.1]:1"]] {
            assert_eq!(reachable(&addrs(loopback)), None, "{loopback:?}");
        }
        for (texts, found) in [
            (&["0.0.0.0:1"][..], "0.0.0.0:1"),
            (&["[::]:1"], "[::]:1"),
            (&["127.0.0.1:1", "192.0.2.1:1"], "192.0.2.1:1"),
            (&["[::1]:1", "[2001:db8::1]:1"], "[2001:db8::1]:1"),
            (&["[::ffff:192.0.2.1]:1"], "[::ffff:192.0.2.1]:1"),
        ] {
            assert_eq!(reachable(&addrs(texts)), Some(found.parse().unwrap()), "{texts:?}");
        }
    }

    /// What is said of a server that others can reach.
    async fn refusal(encrypted: bool, authenticated: bool, insecure: bool) -> Option<String> {
        let addr = Address::from(SocketAddr::from(([0, 0, 0, 0], 1)));
        let place = Place { flag: "--addr", addr, otherwise: "" };
        let addresses = addresses(&place, Exposure { encrypted, authenticated, insecure }).await;
        addresses.err().map(|refused| refused.to_string())
    }

    #[tokio::test]
    async fn a_refusal_says_what_is_missing_and_which_settings_supply_it() {
        assert_eq!(refusal(true, true, false).await, None);
        for (encrypted, authenticated, missing) in [
            (false, false, "there is no authentication and no encryption: set --tls-cert and --tls-key, and --callers"),
            (true, false, "there is no authentication: set --callers or --jwks"),
            (false, true, "there is no encryption: set --tls-cert and --tls-key"),
        ] {
            assert_eq!(refusal(encrypted, authenticated, true).await, None);
            let refused = refusal(encrypted, authenticated, false).await.unwrap();
            assert!(refused.contains(missing), "{refused}");
            assert!(refused.ends_with(", or pass --insecure to allow this"), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_first_address_that_works_is_bound() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = holder.local_addr().unwrap();
        let name = Place { flag: "--addr", addr: Address::from(taken), otherwise: "" };
        let bound = bind(&name, &[taken, SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap();
        assert_ne!(bound.local_addr().unwrap(), taken);
        let refused = bind(&name, &[taken]).unwrap_err();
        assert!(matches!(refused, ServerError::Bind { cause, .. } if cause.kind() == ErrorKind::AddrInUse));
    }

    #[test]
    fn localhost_is_127_0_0_1_first() {
        let found = addrs(&["[::1]:7", "127.0.0.1:7"]);
        assert_eq!(in_order("LocalHost", found.clone()), addrs(&["127.0.0.1:7", "[::1]:7"]));
        assert_eq!(in_order("example.org", found.clone()), found, "the system has its reasons");
    }
}
