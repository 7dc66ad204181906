//! The commands of the binary, one file each: `serve`, `healthcheck`, `compact`, `backup`, `restore`, `check`, `token`,
//! `descriptor`, `forward` with its alias `listen`.
//!
//! - `connect`: how a command connects to a server. `progress`: a line that shows how far a command has come.
//! - `print`: what a command says of what it has done.
//! - `arguments`: flags stand before or after the command.
//! - `variables`: empty and misspelt variables.
//! - `signals`: what ends the server.

mod arguments;
mod backup;
mod check;
mod compact;
mod connect;
mod descriptor;
mod forward;
mod healthcheck;
mod print;
mod progress;
mod restore;
mod serve;
mod signals;
mod token;
mod variables;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::file;

/// A gRPC profile service with a push stream of every change.
///
/// Without a command it serves: `cameo --addr 127.0.0.1:0` is `cameo serve --addr 127.0.0.1:0`.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true, subcommand_required = true, override_usage = "cameo [COMMAND] [OPTIONS]")]
#[command(after_help = "`cameo serve --help` lists the settings.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT. This is what runs without a command.
    #[command(args_override_self = true)]
    Serve(Box<serve::Serve>),
    /// Ask a server whether it serves. The exit status is 0 if it does, else 1.
    Healthcheck(healthcheck::Healthcheck),
    /// Rewrite the store's file, so that nothing remains in it that was removed.
    Compact(compact::Compact),
    /// Create, list and revoke the static tokens of callers.
    Token(token::Token),
    /// Write a backup of a store to a file, while its server serves reads and writes.
    Backup(backup::Backup),
    /// Make a store of a backup, in an empty directory.
    Restore(restore::Restore),
    /// Check that a store, or a backup, is whole and agrees with itself. Exits with 1 if not, and 2 if it cannot tell.
    Check(check::Check),
    /// Write the API as a protobuf `FileDescriptorSet`, for a proxy such as Envoy.
    Descriptor(descriptor::Descriptor),
    /// Send the events of a subscription to a URL, as webhooks.
    Forward(Box<forward::Forward>),
    /// Send the events that are committed from now on to a URL, by a subscription that is deleted at the end.
    Listen(Box<forward::Listen>),
}

/// Runs the command that the arguments and the environment name. Returns the exit status of one that did not fail.
///
/// # Errors
/// Why the command failed.
pub fn run() -> anyhow::Result<ExitCode> {
    match parse()?.command {
        Command::Serve(serve) => serve::run(serve.config),
        Command::Healthcheck(healthcheck) => healthcheck::run(&healthcheck),
        Command::Compact(compact) => compact::run(&compact),
        Command::Token(token) => token::run(&token),
        Command::Backup(backup) => backup::run(&backup),
        Command::Restore(restore) => restore::run(&restore),
        Command::Check(check) => return Ok(check::run(&check)),
        Command::Descriptor(descriptor) => descriptor::run(&descriptor),
        Command::Forward(forward) => forward::forward(*forward),
        Command::Listen(listen) => forward::listen(*listen),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Every command with its flags: what `--help` shows and `docs/settings.md` lists.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments: once to learn of a settings file, and again with its settings as the defaults.
fn parse() -> anyhow::Result<Cli> {
    let mut command = command().mut_subcommands(variables::without_empty_variables);
    let arguments = arguments::with_command_first(&command, std::env::args_os().collect());
    let matches = command.clone().try_get_matches_from(&arguments);
    let matches = matches.unwrap_or_else(|error| arguments::explained(&mut command, &arguments, error).exit());
    let cli = Cli::from_arg_matches(&matches)?;
    let Command::Serve(serve) = &cli.command else { return Ok(cli) };
    let Some(path) = serve.settings_file() else { return Ok(cli) };
    let serve = command.find_subcommand_mut("serve").expect("serve is a command");
    *serve = file::read_defaults(serve.clone(), path)?;
    Ok(Cli::from_arg_matches(&command.get_matches_from(arguments))?)
}
