//! What an expression reads, so that it can be refused to a caller who may not see that.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use super::facts;
use crate::model::grant::Grant;

/// A part of the messages that an expression looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub variable: String,
    /// `None` means the whole of it.
    pub field: Option<String>,
    /// The key of an attribute. `None` means the whole field.
    pub key: Option<String>,
}

/// What an expression reads, as it was written: no macro is expanded.
pub(super) fn of(tree: &IdedExpr) -> Vec<Read> {
    let mut reads = Vec::new();
    collect(tree, &mut reads);
    reads
}

fn collect(node: &IdedExpr, reads: &mut Vec<Read>) {
    match &node.expr {
        Expr::Ident(name) if facts::fields_of(name).is_some() => {
            reads.push(Read { variable: name.clone(), field: None, key: None });
        }
        Expr::Select(select) => collect_select(select, reads),
        Expr::Call(call) => collect_call(call, reads),
        Expr::List(list) => list.elements.iter().for_each(|element| collect(element, reads)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                collect(&entry.key, reads);
                collect(&entry.value, reads);
            }
            EntryExpr::StructField(field) => collect(&field.value, reads),
        }),
        // The check has refused the last two.
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified | Expr::Struct(_) | Expr::Comprehension(_) => {}
    }
}

fn collect_select(select: &SelectExpr, reads: &mut Vec<Read>) {
    if let Some((variable, field)) = field_of(&select.operand) {
        reads.push(Read { key: Some(select.field.clone()), ..Read::of_field(variable, field) });
    } else if let Some(variable) = variable_of(&select.operand) {
        reads.push(Read::of_field(variable, &select.field));
    } else {
        collect(&select.operand, reads);
    }
}

fn collect_call(call: &CallExpr, reads: &mut Vec<Read>) {
    if call.func_name == operators::INDEX
        && let [of, index] = &call.args[..]
        && let Some((variable, field)) = field_of(of)
        && let Expr::Literal(LiteralValue::String(key)) = &index.expr
    {
        reads.push(Read { key: Some(key.inner().to_owned()), ..Read::of_field(variable, field) });
        return;
    }
    call.target.as_deref().into_iter().chain(&call.args).for_each(|node| collect(node, reads));
}

/// `profile.user_attributes` is the field `user_attributes` of `profile`.
fn field_of(node: &IdedExpr) -> Option<(&str, &str)> {
    match &node.expr {
        Expr::Select(select) => Some((variable_of(&select.operand)?, &select.field)),
        _ => None,
    }
}

fn variable_of(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Ident(name) if facts::fields_of(name).is_some() => Some(name),
        _ => None,
    }
}

impl Read {
    fn of_field(variable: &str, field: &str) -> Self {
        Self { variable: variable.to_owned(), field: Some(field.to_owned()), key: None }
    }

    /// Whether a caller with a grant may read it.
    pub fn is_within(&self, grant: &Grant) -> bool {
        let Some(field) = &self.field else { return false };
        match (&*self.variable, field.as_str()) {
            (
                "event",
                "id" | "sequence" | "type" | "time" | "mpid" | "merged_mpid" | "actor" | "silent" | "redacted",
            ) => true,
            ("event", "changed_user_attributes") => grant.has_named("user_attributes") && grant.keys().is_none(),
            ("event", "entered_audience_ids" | "exited_audience_ids") => grant.has_audiences(),
            ("event", "taken_from_mpids" | "taken_by_mpid") => grant.has_identities(),
            // `changed_fields`; `request_id`, which others chose; and what is new until its place is decided.
            ("event", _) => false,
            // It is the whole map if any of its attributes changed: that it is there tells of those that are hidden.
            ("previous", "account_user_attributes") if grant.keys().is_some() => false,
            (_, "user_attributes" | "account_user_attributes") => {
                let has_key = |key: &String| grant.has_key(key.as_bytes());
                grant.has_named(field) && self.key.as_ref().map_or(grant.keys().is_none(), has_key)
            }
            _ => grant.has_named(field),
        }
    }

    /// As an expression names it.
    pub fn name(&self) -> String {
        let parts = [Some(&self.variable), self.field.as_ref(), self.key.as_ref()];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(".")
    }
}
