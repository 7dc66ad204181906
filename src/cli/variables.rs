//! The `CAMEO_` variables of the environment.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use clap::{Arg, Command};

const PREFIX: &str = "CAMEO_";
/// How much a name must resemble a setting's, from 0 to 1, to be taken for a misspelling of it.
const RESEMBLANCE: f64 = 0.85;

/// An empty variable counts as unset: compose files pass variables without a value as empty ones.
pub(super) fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

/// Warns of each variable of the environment that is named like a setting and is none.
pub(super) fn warn_of_unknown(cli: &Command) {
    let known = known(cli);
    let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let mut names: Vec<_> = set.map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    for name in names.iter().filter(|name| is_unknown(name, &known)) {
        let nearest = nearest(name, &known);
        tracing::warn!(variable = name, nearest, "this variable is not a setting, and is ignored");
    }
}

/// The variables of all commands: a container may set those of the health check for the server too.
fn known(cli: &Command) -> BTreeSet<&str> {
    let arguments = cli.get_subcommands().flat_map(Command::get_arguments);
    arguments
        .filter_map(Arg::get_env)
        .filter_map(OsStr::to_str)
        .chain([super::forward::SECRET, super::connect::TOKEN])
        .collect()
}

fn is_unknown(name: &str, known: &BTreeSet<&str>) -> bool {
    name.starts_with(PREFIX) && !known.contains(name) && !is_of_kubernetes(name)
}

/// Kubernetes sets such variables in every container beside a service that is named `cameo`.
fn is_of_kubernetes(name: &str) -> bool {
    name == "CAMEO_PORT"
        || ["CAMEO_PORT_", "CAMEO_SERVICE_HOST", "CAMEO_SERVICE_PORT"].iter().any(|of| name.starts_with(of))
}

/// The setting whose variable resembles this name most.
fn nearest<'k>(name: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let resemblance = |known: &str| {
        let rest = |name: &str| name.trim_start_matches(PREFIX).to_owned();
        strsim::jaro(&rest(name), &rest(known))
    };
    let rated = known.iter().map(|known| (*known, resemblance(known)));
    let best = rated.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (best.1 >= RESEMBLANCE).then_some(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_unknown_and_its_setting_is_the_nearest() {
        let cli = crate::cli::command();
        let known = known(&cli);
        for (name, expected) in [
            ("CAMEO_ADR", Some("CAMEO_ADDR")),
            ("CAMEO_ADDRESS", Some("CAMEO_ADDR")),
            ("CAMEO_DATADIR", Some("CAMEO_DATA_DIR")),
            ("CAMEO_CACHE_BYTE", Some("CAMEO_CACHE_BYTES")),
            ("CAMEO_LOG_FORMT", Some("CAMEO_LOG_FORMAT")),
            ("CAMEO_TLS_KYE", Some("CAMEO_TLS_KEY")),
            ("CAMEO_ENCRYPTION", None),
            ("CAMEO_BIN", None),
        ] {
            assert!(is_unknown(name, &known), "{name}");
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }

    #[test]
    fn settings_and_the_variables_of_others_are_not_unknown() {
        let cli = crate::cli::command();
        let known = known(&cli);
        for name in [
            "CAMEO_ADDR",
            "CAMEO_SERVICE",
            "CAMEO_TIMEOUT",
            "CAMEO_CONFIG",
            "CAMEO_TOKEN",
            "PATH",
            "CAMEO_PORT",
            "CAMEO_PORT_50051_TCP_ADDR",
            "CAMEO_SERVICE_HOST",
            "CAMEO_SERVICE_PORT_GRPC",
        ] {
            assert!(!is_unknown(name, &known), "{name}");
        }
    }
}
