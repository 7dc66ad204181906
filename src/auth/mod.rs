//! Who may do what: below the transports, above the store.
//!
//! - [`caller`]: a caller, its roles, its workspaces, and what it may see.
//! - [`access`]: the one table of calls and roles, and the one function that decides.

pub mod access;
pub mod caller;

pub use access::{Access, Denied, authorize};
pub use caller::{Caller, CallerError, Claims, Role};
