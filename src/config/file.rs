//! The optional settings file: TOML whose keys are the flags without their dashes, such as `cache-bytes = "1GiB"`.
//!
//! What the file says becomes the default of the flag. So a variable wins over the file and a flag over both, and every
//! value is checked as that of the flag is.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

/// Why a settings file cannot be used.
#[allow(missing_docs)] // The fields stand in the messages.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not TOML.
    #[error("{path} is not TOML")]
    Syntax { path: PathBuf, source: toml::de::Error },
    /// A key is not the name of a setting.
    #[error("{path}: there is no setting {key:?}; `cameo serve --help` lists them all")]
    Unknown { path: PathBuf, key: String },
    /// A value is not what the setting takes.
    #[error("{path}: {key}: {problem}")]
    Value { path: PathBuf, key: String, problem: String },
}

/// Takes the settings of a file for the defaults of the command's flags.
///
/// # Errors
/// [`FileError`] if the file cannot be read or says what no flag could.
pub fn read_defaults(mut command: Command, path: &Path) -> Result<Command, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let table: Table = text.parse().map_err(|source| FileError::Syntax { path: path.to_owned(), source })?;
    for (key, value) in &table {
        let unknown = || FileError::Unknown { path: path.to_owned(), key: key.clone() };
        let arg = command.get_arguments().find(|arg| is_setting(arg, key)).ok_or_else(unknown)?;
        let values = valid_values(&command, arg, value).map_err(|problem| FileError::Value {
            path: path.to_owned(),
            key: key.clone(),
            problem,
        })?;
        let id = arg.get_id().clone();
        command = command.mut_arg(id, |arg| arg.default_values(values));
    }
    Ok(command)
}

/// Every setting has a variable, and the file does not name another file.
fn is_setting(arg: &Arg, key: &str) -> bool {
    arg.get_long() == Some(key) && arg.get_env().is_some() && key != "config"
}

/// The values as the flag would be given them.
fn valid_values(command: &Command, arg: &Arg, value: &Value) -> Result<Vec<String>, String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return value.as_bool().map(|on| vec![on.to_string()]).ok_or_else(|| "must be true or false".to_owned());
    }
    let values = match value {
        Value::Array(values) => values.iter().map(word).collect(),
        single => word(single).map(|word| vec![word]),
    };
    let values = values.ok_or_else(|| "must be a text, a number, true or false".to_owned())?;
    let flag = arg.get_long().unwrap_or_default();
    let flags = values.iter().map(|value| format!("--{flag}={value}"));
    let parsed = command
        .clone()
        .mut_args(|arg| arg.env(None::<&str>))
        .try_get_matches_from(std::iter::once("cameo".to_owned()).chain(flags));
    parsed.map(|_| values).map_err(|error| first_line(&error))
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(on) => Some(on.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// The rest tells how to ask for help.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}
