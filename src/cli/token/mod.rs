//! `cameo token`: creates, lists and revokes the static tokens of the callers file. A running server follows the file.
//!
//! - `file`: how the file is changed, so that a server and other commands never see half of it.

mod create;
mod file;
mod list;
mod revoke;

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a caller to the file and print its token, once: the file holds only a hash.
    Create(create::Create),
    /// List the callers of the file.
    List(list::List),
    /// Revoke tokens. Their entries stay in the file, as a record.
    Revoke(revoke::Revoke),
}

/// The file of every command.
#[derive(Debug, Args)]
struct CallersFile {
    /// The callers file, as for `cameo serve --callers`.
    #[arg(long = "file", env = "CAMEO_CALLERS", value_name = "FILE")]
    path: PathBuf,
}

pub(super) fn run(token: &Token) -> anyhow::Result<()> {
    match &token.command {
        Command::Create(create) => create::run(create),
        Command::List(list) => list::run(list),
        Command::Revoke(revoke) => revoke::run(revoke),
    }
}
