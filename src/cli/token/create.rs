//! `cameo token create`.

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use super::{CallersFile, file};
use crate::auth::caller::{Caller, Claims, ROLES, Role};
use crate::auth::callers;
use crate::auth::token::{self, Fresh, Hash};

/// The longest time that a token may be valid, unless it never expires: 100 years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("lifetime").required(true).args(["expires", "never_expires"])))]
pub struct Create {
    #[command(flatten)]
    file: CallersFile,
    /// Name of the caller, which logs and events show.
    #[arg(long)]
    name: String,
    /// What the caller may do. Repeat the flag for several roles.
    #[arg(long = "role", value_name = "ROLE", required = true)]
    #[arg(value_parser = PossibleValuesParser::new(ROLES.map(Role::name)))]
    roles: Vec<String>,
    /// Where the caller may do it, such as `acme/main/web` or `acme/*/*`. Repeat the flag for several workspaces.
    #[arg(long = "workspace", value_name = "WORKSPACE", required = true)]
    workspaces: Vec<String>,
    /// A field of profiles that the caller may see. Repeat the flag for several. Without it, the caller sees all fields.
    #[arg(long = "field", value_name = "FIELD")]
    fields: Vec<String>,
    /// An attribute that the caller may see. Repeat the flag for several. Without it, the caller sees all attributes.
    #[arg(long = "attribute-key", value_name = "KEY")]
    attribute_keys: Vec<String>,
    /// How long the token is valid, such as `90d`.
    #[arg(long, value_parser = lifetime)]
    expires: Option<Duration>,
    /// The token is valid until it is revoked.
    #[arg(long)]
    never_expires: bool,
}

/// Unlike in other settings, a number alone is not taken for seconds: `90` of a token means days.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|_| "it is a number with its unit, such as 90d or 12h")?;
    if lifetime.is_zero() { Err("it must be longer than 0".to_owned()) } else { Ok(lifetime) }
}

pub fn run(create: &Create) -> anyhow::Result<()> {
    let expires = create.expires.map(|after| expiry(SystemTime::now(), after)).transpose()?;
    Caller::new(&create.claims()).map_err(|problem| anyhow!("{problem}"))?; // Before a file is touched.
    let fresh = token::fresh();
    let entry = create.entry(&fresh, expires)?;
    let mut others = 0;
    file::change(&create.file.path, |before| {
        others = callers::entries(before)?.iter().filter(|of| of.name == create.name && of.revoked.is_none()).count();
        Ok(append(before, &entry))
    })?;
    print(create, &fresh, expires, others)
}

fn expiry(now: SystemTime, after: Duration) -> anyhow::Result<SystemTime> {
    let expires = Some(after).filter(|after| *after <= LONGEST).and_then(|after| now.checked_add(after));
    expires.context("--expires is at most 100 years; --never-expires sets no end")
}

/// What the file said stays as it is, comments included.
fn append(before: &str, entry: &str) -> String {
    let gap = match before {
        "" => "",
        before if before.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    format!("{before}{gap}{entry}")
}

impl Create {
    fn claims(&self) -> Claims {
        Claims {
            name: self.name.clone(),
            roles: self.roles.clone(),
            workspaces: self.workspaces.clone(),
            fields: self.fields.clone(),
            attribute_keys: self.attribute_keys.clone(),
            expires: None,
        }
    }

    /// The `[[caller]]` of the file.
    fn entry(&self, fresh: &Fresh, expires: Option<SystemTime>) -> anyhow::Result<String> {
        let list = |texts: &[String]| value(texts.iter().collect::<Array>());
        let mut caller = Table::new();
        caller["name"] = value(&self.name);
        caller["roles"] = list(&self.roles);
        caller["workspaces"] = list(&self.workspaces);
        for (key, texts) in [("fields", &self.fields), ("attribute_keys", &self.attribute_keys)] {
            if !texts.is_empty() {
                caller[key] = list(texts);
            }
        }
        if let Some(expires) = expires {
            caller["expires"] = time(expires)?;
        }
        caller["id"] = value(&fresh.id);
        caller["token_sha256"] = value(Hash::of(fresh.token.as_bytes()).to_hex());
        let mut document = DocumentMut::new();
        document["caller"] = Item::ArrayOfTables(ArrayOfTables::from_iter([caller]));
        Ok(document.to_string())
    }
}

/// A time, to the second.
pub fn time(time: SystemTime) -> anyhow::Result<Item> {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    Ok(value(text.parse::<toml_edit::Datetime>()?))
}

/// Standard output holds the token alone, for a program that stores it.
fn print(create: &Create, fresh: &Fresh, expires: Option<SystemTime>, others: usize) -> anyhow::Result<()> {
    let (file, id, name) = (create.file.path.display(), &fresh.id, &create.name);
    let until = expires.map_or("is valid until it is revoked".to_owned(), |expires| {
        format!("expires at {}", humantime::format_rfc3339_seconds(expires))
    });
    writeln!(std::io::stdout(), "{}", fresh.token).with_context(|| {
        format!("cannot print the token: revoke it, by `cameo token revoke --file {file} --id {id}`")
    })?;
    eprintln!("Added a token of {name} to {file}, with the id {id}. It {until}.");
    eprintln!("It is printed this once: the file holds only its hash. A running server accepts it within seconds.");
    if others > 0 {
        eprintln!("{name} has {others} more. When this one is in use, revoke them: `cameo token list --file {file}`.");
    }
    Ok(())
}
