//! The commands of the binary, one file each.

mod healthcheck;
mod serve;

use std::ffi::OsString;

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
}

/// Runs the command that the arguments and the environment name.
///
/// # Errors
/// Why the command failed.
pub fn run() -> anyhow::Result<()> {
    match parse()?.command {
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
    let arguments = with_command(std::env::args_os().collect());
    let mut command = command().mut_subcommands(without_empty_variables);
    let cli = Cli::from_arg_matches(&command.clone().get_matches_from(&arguments))?;
    let Command::Serve(serve) = &cli.command else { return Ok(cli) };
    let Some(path) = serve.settings_file() else { return Ok(cli) };
    let serve = command.find_subcommand_mut("serve").expect("serve is a command");
    *serve = file::read_defaults(serve.clone(), path)?;
    Ok(Cli::from_arg_matches(&command.get_matches_from(arguments))?)
}

/// Adds `serve` if no command is named. Help and the version need no command.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let first = arguments.get(1).map(|first| first.to_string_lossy());
    let is_flag = first.as_ref().is_none_or(|first| first.starts_with('-'));
    let needs_no_command = ["-h", "--help", "-V", "--version"].iter().any(|flag| first.as_deref() == Some(flag));
    if is_flag && !needs_no_command {
        arguments.insert(1.min(arguments.len()), "serve".into());
    }
    arguments
}

/// An empty variable counts as unset: compose files pass variables without a value as empty ones.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg })
}
