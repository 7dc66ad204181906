//! Who may do what: below the transports, above the store.
//!
//! - [`caller`]: a caller, its roles, its workspaces, and what it may see.
//! - [`access`]: the one table of calls and roles, and the one function that decides.
//! - [`Authenticator`]: from a credential to a caller. What it knows comes from two places:
//!   - [`callers`], a file with the callers that have a static [`token`] or a client certificate;
//!   - JWTs (`jwt`), which are verified by the `keys` of an identity provider: a file, or a URL that `remote` and `fetch`
//!     keep up with. ring checks each `signature` once, and `verified` remembers it.
//!
//! What always holds:
//! - No credential, no part of one and no hash is in a message or in a log. A secret is compared in constant time.
//! - A file is read again when it changes (`watched`). What is wrong with it changes nothing but the log.
//! - A caller is over when the entry of the file or the key that named it is no longer in force: its streams end, and
//!   its token is verified again.

pub mod access;
mod authenticator;
pub mod caller;
pub mod callers;
mod fetch;
mod jwt;
mod keys;
mod refused;
mod remote;
mod signature;
pub mod token;
mod verified;
mod watched;

pub use access::{Access, Denied, authorize};
pub use authenticator::{Authenticator, TOKEN_BYTES};
pub use caller::{Caller, CallerError, Claims, Role};
pub use refused::{AuthError, Unauthenticated};
pub use watched::FileError;

#[cfg(test)]
mod tests;
