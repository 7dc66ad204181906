//! The optional settings file: TOML whose keys are the flags without their dashes, such as `cache-bytes = "1GiB"`.
//!
//! A value in the file becomes the default of its flag. So a variable wins over the file, a flag wins over both, and
//! every value is checked as the flag's is.

use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use toml::{Table, Value};

/// Why a settings file cannot be used.
#[allow(missing_docs)] // The messages explain the fields.
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

/// Makes the settings in a file the defaults of the command's flags.
///
/// # Errors
/// [`FileError`] if the file cannot be read, or has a key or a value that no flag accepts.
pub fn read_defaults(mut command: Command, path: &Path) -> Result<Command, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let table: Table = text.parse().map_err(|source| FileError::Syntax { path: path.to_owned(), source })?;
    for (key, value) in &table {
        let unknown = || FileError::Unknown { path: path.to_owned(), key: key.clone() };
        let arg = command.get_arguments().find(|arg| is_setting(arg, key)).ok_or_else(unknown)?;
        let value = valid_value(&command, key, value).map_err(|problem| FileError::Value {
            path: path.to_owned(),
            key: key.clone(),
            problem,
        })?;
        let id = arg.get_id().clone();
        command = command.mut_arg(id, |arg| arg.default_value(value));
    }
    Ok(command)
}

/// The file does not name another file.
fn is_setting(arg: &Arg, key: &str) -> bool {
    arg.get_long() == Some(key) && key != "config"
}

/// The value as text, if the flag accepts it.
fn valid_value(command: &Command, key: &str, value: &Value) -> Result<String, String> {
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(on) => on.to_string(),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            return Err("must be a text, a whole number, true or false".to_owned());
        }
    };
    let without_variables = command.clone().mut_args(|arg| arg.env(None::<&str>));
    let parsed = without_variables.try_get_matches_from([command.get_name(), &format!("--{key}={value}")]);
    parsed.map(|_| value).map_err(|error| first_line(&error))
}

/// The problem. The lines after it tell how to ask for help.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}
