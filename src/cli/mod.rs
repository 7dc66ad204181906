//! The commands of the binary, one file each.

mod healthcheck;
mod serve;

use clap::{Parser, Subcommand};

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
    /// Serve until SIGTERM or SIGINT; what runs without a command.
    Serve(Box<serve::Serve>),
    /// Ask a server whether it serves: exit status 0 if so, else 1.
    Healthcheck(healthcheck::Healthcheck),
}

/// Runs the command that the arguments and the environment name.
///
/// # Errors
/// Why the command failed.
pub fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(serve)) => serve::run(*serve),
        Some(Command::Healthcheck(healthcheck)) => healthcheck::run(&healthcheck),
    }
}
