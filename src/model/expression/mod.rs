//! Conditions on profiles, in the Common Expression Language (CEL).
//!
//! - `tokens` bounds the length, the symbols and the depth of a source before the parser sees it: the parser recurses.
//! - `check` refuses what is unknown, what is no condition, and what could cost too much.
//! - `reads` is what an expression looks at. `facts` converts the messages that an expression looks at.
//!
//! # What an evaluation costs
//!
//! Let S be the size of the three messages, N the symbols of an expression and C the copies that it may make.
//! - Outside of macros, each of at most N nodes is evaluated once. It reads its operands at most once.
//! - `+` and lists or maps of anything but literals copy their operands. At most C places do. Each copies at most what
//!   S and the places before it hold, so that no value is larger than (C + 1) S.
//! - A macro (`exists`, `all`, …) evaluates its body once for each element. Its range is a part of the messages or a
//!   literal with copies, and holds neither a macro nor `+`. Its body holds neither as well, and mentions only its own
//!   variable, literals and short fields. Thus one node reads, over all elements, at most the range. The result of
//!   `filter` and `map` is a part of the range.
//!
//! An evaluation thus takes O(N C S) steps and O(C S) memory. There are no loops and no recursion, and only `+`
//! joins strings.
//!
//! Absent on purpose: `matches`, which the crate compiles at each call; optional values; bytes; `type` and `dyn`.

mod check;
mod facts;
mod reads;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{IdedExpr, SourceInfo};
use cel::common::types::CelBool;
use cel::parser::Parser;
use cel::{Context, Env, ParseErrors, Value};

use super::Invalid;
use super::grant::Grant;
use super::invalid::{Quoted, over_limit};
use super::limits::{EXPRESSION_BYTES, EXPRESSION_DEPTH};
pub use facts::{Facts, Subject};
use reads::Read;
use tokens::Tokens;

const FIELD: &str = "filter.expression";

/// The functions, and the macros expanded.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));
/// No macros, so that a source is checked as it was written.
static AS_WRITTEN: LazyLock<Env> = LazyLock::new(|| Env::default().with_optional_support(false));

/// A compiled condition on profiles. Two are equal if their texts are.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

struct Compiled {
    source: String,
    tree: IdedExpr,
    reads: Vec<Read>,
}

/// Why a source is refused, and the byte at which it is.
#[derive(Debug)]
struct Problem {
    at: usize,
    text: String,
}

impl Expression {
    /// Parses the `expression` of a filter.
    ///
    /// # Errors
    /// [`Invalid`] with the line and column if it is no condition, or could cost too much.
    pub fn parse(source: &str) -> Result<Self, Invalid> {
        if source.len() > EXPRESSION_BYTES {
            return Err(Invalid::filter(FIELD, over_limit("bytes", source.len(), EXPRESSION_BYTES)));
        }
        // The parser is generated code with assertions of its own.
        let tree = catch_unwind(|| compile(source)).unwrap_or_else(|_| Err(Problem::new(0, "cannot be parsed")));
        let (tree, reads) = tree.map_err(|problem| Invalid::filter(FIELD, problem.placed(source)))?;
        Ok(Self(Arc::new(Compiled { source: source.to_owned(), tree, reads })))
    }

    /// Refuses an expression over what a caller may not see.
    ///
    /// # Errors
    /// [`Invalid::Hidden`] that names the first such part.
    pub fn check_within(&self, grant: &Grant) -> Result<(), Invalid> {
        self.0.reads.iter().try_for_each(|read| Grant::check(read.is_within(grant), FIELD, &read.name()))
    }

    /// The text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Whether a profile satisfies it. A profile that it cannot be evaluated for does not: an attribute may be absent,
    /// or have another type.
    #[must_use]
    pub fn matches(&self, facts: &Facts, profile: &Subject) -> bool {
        let variables = facts.with(profile);
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&STANDARD));
            context.set_variable_resolver(&variables);
            // The error is dropped unseen, because it holds values.
            let result = Value::resolve_val(&self.0.tree, &context).ok();
            result.and_then(|value| value.downcast_ref::<CelBool>().map(|value| *value.inner())) == Some(true)
        };
        catch_unwind(AssertUnwindSafe(evaluate)).unwrap_or(false)
    }
}

fn compile(source: &str) -> Result<(IdedExpr, Vec<Read>), Problem> {
    let tokens = Tokens::of(source)?;
    let (written, places) = parse(AS_WRITTEN.parser(), source, &tokens)?;
    check::check(&written, &places, &tokens)?;
    Ok((parse(STANDARD.parser(), source, &tokens)?.0, reads::of(&written)))
}

/// Stops at the first error: what a recovered parser makes of the rest is not bounded by [`tokens`].
fn parse(parser: Parser, source: &str, tokens: &Tokens) -> Result<(IdedExpr, SourceInfo), Problem> {
    let depth = u16::try_from(EXPRESSION_DEPTH).expect("a small constant");
    let parser = parser.max_recursion_depth(depth).error_recovery_limit(0);
    parser.parse_with_source_info(source).map_err(|errors| syntax_problem(&errors, tokens))
}

/// The parser's own words list every token that it would have liked.
fn syntax_problem(errors: &ParseErrors, tokens: &Tokens) -> Problem {
    let Some(error) = errors.errors.first() else { return Problem::new(0, "cannot be parsed") };
    let token = tokens.at_place(error.pos);
    let found = token.map_or("end".to_owned(), |token| Quoted(token.text).to_string());
    let what = match error.msg.split(':').next() {
        None | Some("Syntax error" | "UNKNOWN") => "unexpected",
        Some(what) => what,
    };
    Problem::new(token.map_or(tokens.end(), |token| token.start), format!("{what} {found}"))
}

impl Problem {
    fn new(at: usize, text: impl Into<String>) -> Self {
        Self { at, text: text.into() }
    }

    /// With the line and the column, in characters from 1.
    fn placed(&self, source: &str) -> String {
        let (line, column) = tokens::place(source, self.at);
        format!("line {line}, column {column}: {}", self.text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source().hash(state);
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source()).finish()
    }
}
