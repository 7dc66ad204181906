//! What an expression may say: see [`super`] for why.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators};

use super::facts::{self, Kind};
use super::tokens::Tokens;
use super::{Problem, Quoted};
use crate::model::invalid::over_limit;
use crate::model::limits::EXPRESSION_COPIES;

const MACROS: [&str; 5] = ["all", "exists", "exists_one", "filter", "map"];
/// Their arguments without the target. `true` if they return a bool.
const FUNCTIONS: [(&str, usize, bool); 8] = [
    ("size", 1, false),
    ("int", 1, false),
    ("uint", 1, false),
    ("double", 1, false),
    ("string", 1, false),
    ("bool", 1, true),
    ("timestamp", 1, false),
    ("duration", 1, false),
];
const METHODS: [(&str, usize, bool); 4] =
    [("size", 0, false), ("contains", 1, true), ("startsWith", 1, true), ("endsWith", 1, true)];
/// Methods of timestamps with an optional time zone. Some are those of durations too.
const PARTS: [&str; 10] = [
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];
const ARITHMETIC: [&str; 6] = [
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::NEGATE,
];

/// Refuses an expression that is unknown in a part, no condition, or too costly.
pub(super) fn check(tree: &IdedExpr, places: &SourceInfo, tokens: &Tokens) -> Result<(), Problem> {
    let mut check = Check { places, tokens, copies: 0 };
    check.node(tree, Scope::Outside)?;
    check.condition(tree)
}

/// Where a node stands.
#[derive(Clone, Copy)]
enum Scope<'a> {
    Outside,
    /// What a macro iterates over.
    Range,
    /// What a macro evaluates for each element, and its variable.
    Body(&'a str),
}

impl Scope<'_> {
    fn defines(self, name: &str) -> bool {
        matches!(self, Self::Body(variable) if variable == name)
    }
}

struct Check<'a> {
    places: &'a SourceInfo,
    tokens: &'a Tokens<'a>,
    copies: usize,
}

impl Check<'_> {
    fn node(&mut self, node: &IdedExpr, scope: Scope) -> Result<(), Problem> {
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(node, name, scope),
            Expr::Select(select) => self.select(node, select, scope),
            Expr::List(list) => self.copied(list.elements.iter(), scope),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => self.copied([&entry.key, &entry.value], scope),
                EntryExpr::StructField(field) => Err(self.problem(&field.value, "unexpected field")),
            }),
            Expr::Call(call) => self.call(node, call, scope),
            Expr::Struct(_) | Expr::Comprehension(_) | Expr::Unspecified => {
                Err(self.problem(node, "messages cannot be made"))
            }
        }
    }

    fn nodes<'n>(&mut self, nodes: impl IntoIterator<Item = &'n IdedExpr>, scope: Scope) -> Result<(), Problem> {
        nodes.into_iter().try_for_each(|node| self.node(node, scope))
    }

    fn variable(&self, node: &IdedExpr, name: &str, scope: Scope) -> Result<(), Problem> {
        match scope {
            _ if scope.defines(name) => Ok(()),
            _ if facts::fields_of(name).is_none() => Err(self.named(node, "unknown variable", name)),
            Scope::Body(_) => Err(self.in_body(node)),
            _ => Ok(()),
        }
    }

    fn select(&mut self, node: &IdedExpr, select: &SelectExpr, scope: Scope) -> Result<(), Problem> {
        let fields = match &select.operand.expr {
            Expr::Ident(name) if !scope.defines(name) => facts::fields_of(name),
            _ => None,
        };
        let Some(fields) = fields else { return self.node(&select.operand, scope) };
        match fields.iter().find(|(name, _)| *name == select.field) {
            None => Err(self.named(node, "unknown field", &select.field)),
            Some((_, Kind::Long)) if matches!(scope, Scope::Body(_)) => Err(self.in_body(node)),
            Some(_) => Ok(()),
        }
    }

    /// Elements of a list or map. A literal is bounded by the source.
    fn copied<'n>(&mut self, nodes: impl IntoIterator<Item = &'n IdedExpr>, scope: Scope) -> Result<(), Problem> {
        nodes.into_iter().try_for_each(|node| match &node.expr {
            Expr::Literal(_) => Ok(()),
            _ => self.copy(node).and_then(|()| self.node(node, scope)),
        })
    }

    fn copy(&mut self, node: &IdedExpr) -> Result<(), Problem> {
        self.copies += 1;
        if self.copies > EXPRESSION_COPIES {
            return Err(self.problem(node, over_limit("copies of values", self.copies, EXPRESSION_COPIES)));
        }
        Ok(())
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr, scope: Scope) -> Result<(), Problem> {
        let name = call.func_name.as_str();
        match &call.target {
            Some(range) if MACROS.contains(&name) => self.macro_call(node, call, range, scope),
            None if name == "has" => self.has(node, call, scope),
            None if is_operator(name) => {
                if name == operators::ADD && !call.args.iter().any(is_number) {
                    self.join(node, scope)?;
                }
                self.nodes(&call.args, scope)
            }
            target => {
                self.known(node, call)?;
                self.nodes(target.as_deref().into_iter().chain(&call.args), scope)
            }
        }
    }

    fn join(&mut self, node: &IdedExpr, scope: Scope) -> Result<(), Problem> {
        match scope {
            Scope::Outside => self.copy(node),
            _ => Err(self.problem(node, "only numbers can be added in a macro")),
        }
    }

    fn has(&mut self, node: &IdedExpr, call: &CallExpr, scope: Scope) -> Result<(), Problem> {
        match &call.args[..] {
            [field] if matches!(field.expr, Expr::Select(_)) => self.node(field, scope),
            _ => Err(self.problem(node, "\"has\" takes a field, such as has(profile.create_time)")),
        }
    }

    fn known(&self, node: &IdedExpr, call: &CallExpr) -> Result<(), Problem> {
        let (name, arguments) = (call.func_name.as_str(), call.args.len());
        let table = if call.target.is_some() { &METHODS[..] } else { &FUNCTIONS[..] };
        let part = call.target.is_some() && PARTS.contains(&name);
        match table.iter().find(|(known, ..)| *known == name) {
            Some((_, takes, _)) if *takes == arguments => Ok(()),
            None if part && arguments <= 1 => Ok(()),
            None if !part => Err(self.named(node, "unknown function", name)),
            _ => Err(self.named(node, "wrong number of arguments of", name)),
        }
    }

    fn macro_call(&mut self, node: &IdedExpr, call: &CallExpr, range: &IdedExpr, scope: Scope) -> Result<(), Problem> {
        if !matches!(scope, Scope::Outside) {
            return Err(self.problem(node, "macros cannot be nested"));
        }
        let (variable, bodies) = match &call.args[..] {
            [variable, bodies @ ..] if bodies.len() == 1 || (bodies.len() == 2 && call.func_name == "map") => {
                (variable, bodies)
            }
            _ => return Err(self.named(node, "wrong number of arguments of", &call.func_name)),
        };
        let name = match &variable.expr {
            Expr::Ident(name) if facts::fields_of(name).is_none() && !name.starts_with('.') => name,
            _ => return Err(self.problem(variable, "must be a new name")),
        };
        self.node(range, Scope::Range)?;
        self.nodes(bodies, Scope::Body(name))?;
        match bodies.last() {
            // Anything else could be larger than the element.
            Some(to) if call.func_name == "map" && !is_part_of(name, to) => {
                Err(self.named(to, "must be a part of", name))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is clearly no bool. What depends on an attribute is seen when it is evaluated.
    fn condition(&self, node: &IdedExpr) -> Result<(), Problem> {
        match &node.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Ok(()),
            Expr::Literal(_) | Expr::List(_) | Expr::Map(_) | Expr::Ident(_) => Err(self.no_condition(node)),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if !is_bool_field(name, &select.field) => Err(self.no_condition(node)),
                _ => Ok(()),
            },
            Expr::Call(call) => self.call_condition(node, call),
            _ => Ok(()),
        }
    }

    fn call_condition(&self, node: &IdedExpr, call: &CallExpr) -> Result<(), Problem> {
        let name = call.func_name.as_str();
        match name {
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                call.args.iter().try_for_each(|argument| self.condition(argument))
            }
            operators::CONDITIONAL => call.args.iter().try_for_each(|argument| self.condition(argument)),
            "map" | "filter" => Err(self.no_condition(node)),
            _ if ARITHMETIC.contains(&name) || PARTS.contains(&name) => Err(self.no_condition(node)),
            _ if FUNCTIONS.iter().chain(&METHODS).any(|(known, _, is_bool)| *known == name && !is_bool) => {
                Err(self.no_condition(node))
            }
            _ => Ok(()),
        }
    }

    fn no_condition(&self, node: &IdedExpr) -> Problem {
        self.problem(node, "is not a condition")
    }

    fn in_body(&self, node: &IdedExpr) -> Problem {
        self.problem(node, "a macro may only use its variable, literals and short fields")
    }

    fn named(&self, node: &IdedExpr, problem: &str, name: &str) -> Problem {
        self.problem(node, format!("{problem} {}", Quoted(name)))
    }

    fn problem(&self, node: &IdedExpr, text: impl Into<String>) -> Problem {
        let (start, _) = self.places.offset_for(node.id).unwrap_or_default();
        let at = self.tokens.of_node(start as usize).map_or(0, |token| token.start);
        Problem::new(at, text)
    }
}

/// The syntax tree names operators by signs, such as `_+_` and `@in`, so that no function can have their names.
fn is_operator(name: &str) -> bool {
    !name.starts_with('.') && name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn is_bool_field(variable: &str, field: &str) -> bool {
    facts::fields_of(variable).is_none_or(|fields| fields.contains(&(field, Kind::Bool)))
}

/// Whether a node is a number, a time or an error, so that adding to it joins nothing.
fn is_number(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)) => true,
        Expr::Call(call) => {
            matches!(call.func_name.as_str(), "int" | "uint" | "double" | "timestamp" | "duration" | "size")
        }
        _ => false,
    }
}

/// Whether a node is the variable of a macro, or a field or an element of it.
fn is_part_of(variable: &str, node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Ident(name) => name == variable,
        Expr::Select(select) => is_part_of(variable, &select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => {
            call.args.first().is_some_and(|of| is_part_of(variable, of))
        }
        _ => false,
    }
}
