//! The people whose profiles the tests are about. Tests that need many profiles number them instead.
//!
//! The mpids are years of birth, so that none is mistaken for a sequence number.

use cameo::proto::v1::*;

use super::{identity, with_mpid};

/// Ada Lovelace's mpid.
pub const ADA: i64 = 1815;
/// Grace Hopper's mpid.
pub const GRACE: i64 = 1906;
/// Alan Turing's mpid.
pub const ALAN: i64 = 1912;
/// An mpid that no profile has.
pub const UNKNOWN_MPID: i64 = 404;

pub const ADA_EMAIL: &str = "ada@example.com";

/// The identity of an email address at `example.com`.
pub fn email(name: &str) -> Identity {
    identity("email", &format!("{name}@example.com"))
}

/// Ada's profile, with [`ADA_EMAIL`].
pub fn ada() -> Profile {
    Profile { user_identities: vec![identity("email", ADA_EMAIL)], ..with_mpid(ADA) }
}
