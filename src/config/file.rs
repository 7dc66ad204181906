//! The optional settings file: TOML whose keys are the flags without their dashes, such as `cache-bytes = "1GiB"`.
//!
//! A value in the file becomes the default of its flag. So a variable wins over the file, a flag wins over both, and
//! every value is checked as the flag's is.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::error::ContextKind;
use clap::{Arg, Command};
use toml::{Table, Value};

/// Why a settings file cannot be used.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {cause}. Correct --config, or the permissions of the file")]
    Read { path: PathBuf, cause: std::io::Error },
    /// The file is not TOML.
    #[error("{path} is not TOML: line {line}: {problem}")]
    Syntax { path: PathBuf, line: usize, problem: String },
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
    let text = std::fs::read_to_string(path).map_err(|cause| FileError::Read { path: path.to_owned(), cause })?;
    let table: Table = text.parse().map_err(|error| syntax(path, &text, &error))?;
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

/// Says in one line what toml draws in several.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> FileError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    FileError::Syntax { path: path.to_owned(), line, problem: error.message().replace('\n', ", ") }
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
        Value::Float(number) => format!("{number:?}"), // With its point: 1e3 is not the whole number 1000.
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            return Err("must be a text, a number, true or false".to_owned());
        }
    };
    let without_variables = command.clone().mut_args(|arg| arg.env(None::<&str>));
    let parsed = without_variables.try_get_matches_from([command.get_name(), &format!("--{key}={value}")]);
    parsed.map(|_| value).map_err(|error| problem(&error))
}

/// What is wrong with a value, without the flag and its value's name: a file names its settings by their keys.
fn problem(error: &clap::Error) -> String {
    let value = error.get(ContextKind::InvalidValue).map(ToString::to_string).unwrap_or_default();
    let what = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(valid)) => format!("it must be one of {valid}"),
        (None, None) => error.kind().to_string(),
    };
    format!("invalid value '{value}': {what}")
}
