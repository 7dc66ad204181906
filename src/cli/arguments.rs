//! The order of the words on the command line: flags may stand before the command or after it.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

/// Moves the command in front of its flags, where clap expects it. Without a command it is `serve`. Help and the version
/// need no command.
pub(super) fn with_command_first(cli: &Command, mut arguments: Vec<OsString>) -> Vec<OsString> {
    let first = arguments.get(1).map(|first| first.to_string_lossy());
    if first.is_some_and(|first| ["-h", "--help", "-V", "--version"].contains(&&*first)) {
        return arguments;
    }
    let command = command_at(cli, &arguments).map_or_else(|| "serve".into(), |at| arguments.remove(at));
    arguments.insert(1.min(arguments.len()), command);
    arguments
}

/// Where the command is: the first word that is neither a flag nor the value of one. What follows a flag that no command
/// has may be its value, so there only the name of a command counts.
fn command_at(cli: &Command, arguments: &[OsString]) -> Option<usize> {
    let (mut at, mut after_unknown) = (1, false);
    while let Some(word) = arguments.get(at) {
        let word = word.to_string_lossy();
        if !word.starts_with('-') && (!after_unknown || cli.find_subcommand(&*word).is_some()) {
            return Some(at);
        }
        let name = word.split('=').next().unwrap_or_default();
        let flags: Vec<_> = cli.get_subcommands().filter_map(|command| flag(command, name)).collect();
        after_unknown |= flags.is_empty();
        let value_follows = name == word && flags.into_iter().any(takes_next_word);
        at += if value_follows { 2 } else { 1 };
    }
    None
}

/// The command's flag of this name, dashes included.
fn flag<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let long = name.strip_prefix("--")?;
    command.get_arguments().find(|arg| arg.get_long() == Some(long))
}

/// Whether the word after the flag is its value. A switch takes its value, if any, after an equals sign.
fn takes_next_word(flag: &Arg) -> bool {
    flag.get_action().takes_values() && !flag.is_require_equals_set()
}

/// Says of a flag that belongs to another command which one that is. Other errors are returned as they are.
pub(super) fn explained(cli: &mut Command, arguments: &[OsString], error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return error };
    let owner = cli.get_subcommands().find(|command| flag(command, name).is_some());
    let (Some(owner), Some(command)) = (owner.map(Command::get_name), arguments.get(1)) else { return error };
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let said = format!("`cameo {}` has no flag {name}: it is one of `cameo {owner}`", command.to_string_lossy());
    cli.error(ErrorKind::UnknownArgument, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_among_its_flags() {
        for (line, expected) in [
            ("cameo", "cameo serve"),
            ("cameo serve", "cameo serve"),
            ("cameo --addr a:1", "cameo serve --addr a:1"),
            ("cameo --addr a:1 serve --log off", "cameo serve --addr a:1 --log off"),
            ("cameo --addr a:1 healthcheck", "cameo healthcheck --addr a:1"),
            ("cameo --addr=a:1 healthcheck", "cameo healthcheck --addr=a:1"),
            ("cameo --service healthcheck healthcheck", "cameo healthcheck --service healthcheck"),
            ("cameo --data-dir serve", "cameo serve --data-dir serve"),
            ("cameo --data-dir serve serve", "cameo serve --data-dir serve"),
            ("cameo serve --data-dir healthcheck", "cameo serve --data-dir healthcheck"),
            ("cameo --config serve --insecure serve", "cameo serve --config serve --insecure"),
            ("cameo --insecure=false serve", "cameo serve --insecure=false"),
            ("cameo --unknown healthcheck", "cameo healthcheck --unknown"),
            ("cameo --addr a:1 sevre", "cameo sevre --addr a:1"),
            ("cameo --adr a:1", "cameo serve --adr a:1"),
            ("cameo --adr a:1 healthcheck", "cameo healthcheck --adr a:1"),
            ("cameo --addr=a:1 sevre", "cameo sevre --addr=a:1"),
            ("cameo --addr", "cameo serve --addr"),
            ("cameo help serve", "cameo help serve"),
            ("cameo --version", "cameo --version"),
            ("cameo --help serve", "cameo --help serve"),
        ] {
            let words = line.split(' ').map(OsString::from).collect();
            let sorted = with_command_first(&crate::cli::command(), words);
            assert_eq!(sorted.join(" ".as_ref()), *expected, "{line}");
        }
    }
}
