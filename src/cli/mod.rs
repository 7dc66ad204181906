//! The commands of the binary, one file each.

mod healthcheck;
mod serve;

use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::file::{self, FileError};

/// A gRPC profile service with a push stream of every change.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT. This is what runs without a command.
    Serve(Box<serve::Serve>),
    /// Ask a server whether it serves. The exit status is 0 if it does, else 1.
    Healthcheck(healthcheck::Healthcheck),
}

/// Runs the command that the arguments and the environment name.
///
/// # Errors
/// Why the command failed.
pub fn run() -> anyhow::Result<()> {
    match parse()?.into_command() {
        Command::Serve(serve) => serve::run(serve.config),
        Command::Healthcheck(healthcheck) => healthcheck::run(&healthcheck),
    }
}

/// Every command with its flags: what `--help` shows and `docs/settings.md` lists.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments: once to learn of a settings file, and again with its settings as the defaults.
fn parse() -> anyhow::Result<Cli> {
    let cli = Cli::parse();
    let Some(path) = cli.settings_file() else { return Ok(cli) };
    let matches = with_settings(command(), path)?.get_matches();
    Ok(Cli::from_arg_matches(&matches)?)
}

/// `serve` has its flags with and without its name.
fn with_settings(command: clap::Command, path: &Path) -> Result<clap::Command, FileError> {
    let mut command = file::read_defaults(command, path)?;
    let serve = command.find_subcommand_mut("serve").expect("serve is a command");
    *serve = file::read_defaults(std::mem::take(serve), path)?;
    Ok(command)
}

impl Cli {
    fn settings_file(&self) -> Option<&Path> {
        match &self.command {
            None => self.serve.settings_file(),
            Some(Command::Serve(serve)) => serve.settings_file(),
            Some(Command::Healthcheck(_)) => None,
        }
    }

    fn into_command(self) -> Command {
        self.command.unwrap_or_else(|| Command::Serve(Box::new(self.serve)))
    }
}
