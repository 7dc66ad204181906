//! The symbols of a source, and how deep its syntax tree can be.
//!
//! This reads a source as the lexer of the parser does, but refuses what that would skip over. Otherwise the parser
//! could see symbols where this sees a string, and recurse deeper than the limit.

use super::Problem;
use crate::model::invalid::{Quoted, over_limit};
use crate::model::limits::{EXPRESSION_DEPTH, EXPRESSION_SYMBOLS};

const PAIRS: [&str; 6] = ["&&", "||", "==", "!=", "<=", ">="];
const SINGLES: &[u8] = b"()[]{}.,?:+-*/%<>!";

/// A symbol: a name, a literal, an operator or a bracket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub text: &'a str,
    pub start: usize,
}

#[derive(Debug)]
pub(super) struct Tokens<'a> {
    source: &'a str,
    all: Vec<Token<'a>>,
}

impl<'a> Tokens<'a> {
    /// Refuses a source with too many symbols or too deep a nesting.
    pub(super) fn of(source: &'a str) -> Result<Self, Problem> {
        let mut tokens = Self { source, all: Vec::new() };
        let mut at = 0;
        while let Some(start) = skip_blank(source, at) {
            at = start + length(&source[start..]).map_err(|text| Problem::new(start, text))?;
            tokens.all.push(Token { text: &source[start..at], start });
        }
        if tokens.all.len() > EXPRESSION_SYMBOLS {
            let text = over_limit("symbols", tokens.all.len(), EXPRESSION_SYMBOLS);
            return Err(Problem::new(tokens.all[EXPRESSION_SYMBOLS].start, text));
        }
        Depth::check(&tokens.all)?;
        Ok(tokens)
    }

    pub(super) fn end(&self) -> usize {
        self.source.len()
    }

    /// The token at a line and column of the parser.
    pub(super) fn at_place(&self, at: (isize, isize)) -> Option<&Token<'a>> {
        self.all.iter().find(|token| place(self.source, token.start) == at)
    }

    /// The token that a node of the syntax tree begins with, by its byte. That of a call is its bracket, but
    /// a person looks for the name before it.
    pub(super) fn of_node(&self, start: usize) -> Option<&Token<'a>> {
        let index = self.all.iter().position(|token| token.start == start)?;
        let before = index.checked_sub(1).map(|before| &self.all[before]);
        match before {
            Some(name) if self.all[index].text == "(" && is_name(name.text) => Some(name),
            _ => self.all.get(index),
        }
    }
}

/// The line and the column of a byte, in characters from 1.
pub(super) fn place(source: &str, at: usize) -> (isize, isize) {
    let before = &source[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line.cast_signed(), column.cast_signed())
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Where the next token begins, after blanks and comments.
fn skip_blank(source: &str, mut at: usize) -> Option<usize> {
    loop {
        let rest = source[at..].trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
        at = source.len() - rest.len();
        if !rest.starts_with("//") {
            return (!rest.is_empty()).then_some(at);
        }
        at += rest.find('\n').unwrap_or(rest.len());
    }
}

/// The bytes of the token that `rest` begins with.
fn length(rest: &str) -> Result<usize, String> {
    let first = rest.as_bytes()[0];
    let fraction = first == b'.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let quoted = rest.trim_start_matches(['r', 'R', 'b', 'B']);
    if rest.len() - quoted.len() <= 2 && quoted.starts_with(['"', '\'']) {
        let prefix = &rest[..rest.len() - quoted.len()];
        return Ok(prefix.len() + string(prefix, quoted)?);
    }
    match first {
        b'0'..=b'9' => Ok(number(rest)),
        _ if fraction => Ok(number(rest)),
        b'a'..=b'z' | b'A'..=b'Z' | b'_' => Ok(span(rest, |c| c.is_ascii_alphanumeric() || c == '_')),
        _ if PAIRS.iter().any(|pair| rest.starts_with(pair)) => Ok(2),
        _ if SINGLES.contains(&first) => Ok(1),
        _ => Err(format!("unexpected {}", Quoted(&rest[..rest.chars().next().map_or(0, char::len_utf8)]))),
    }
}

fn span(rest: &str, within: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !within(c)).unwrap_or(rest.len())
}

/// Digits, a fraction, an exponent and a suffix. The parser refuses those that are malformed.
fn number(rest: &str) -> usize {
    let mut end = span(rest, |c| c.is_ascii_alphanumeric());
    if let Some(fraction) = rest[end..].strip_prefix('.')
        && fraction.starts_with(|c: char| c.is_ascii_digit())
    {
        end += 1 + span(fraction, |c| c.is_ascii_alphanumeric());
    }
    let exponent = rest[..end].ends_with(['e', 'E']) && rest[end..].starts_with(['+', '-']);
    if exponent { end + 1 + span(&rest[end + 1..], |c| c.is_ascii_digit()) } else { end }
}

/// The bytes of a string with its quotes.
fn string(prefix: &str, quoted: &str) -> Result<usize, String> {
    let raw = match prefix {
        "" => false,
        "r" | "R" => true,
        _ => return Err("bytes are not supported".to_owned()),
    };
    let quote = &quoted[..1];
    let triple = quote.repeat(3);
    let mark = if quoted.starts_with(&triple) { &triple } else { quote };
    let mut at = mark.len();
    while let Some(next) = quoted[at..].chars().next() {
        if quoted[at..].starts_with(mark) {
            return Ok(at + mark.len());
        }
        at += match next {
            '\n' | '\r' if mark.len() == 1 => break,
            '\\' if !raw => escape(&quoted[at + 1..]).ok_or("a string with an unknown escape")?,
            _ => next.len_utf8(),
        };
    }
    Err("a string without an end".to_owned())
}

/// The bytes of an escape sequence with its backslash.
fn escape(rest: &str) -> Option<usize> {
    let (digits, radix) = match rest.chars().next()? {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => return Some(2),
        'x' | 'X' => (rest.get(1..3)?, 16),
        'u' => (rest.get(1..5)?, 16),
        'U' => (rest.get(1..9)?, 16),
        '0'..='3' => (rest.get(..3)?, 8),
        _ => return None,
    };
    let letter = usize::from(radix == 16);
    digits.chars().all(|digit| digit.is_digit(radix)).then_some(1 + letter + digits.len())
}

/// The part of an expression within one pair of brackets.
#[derive(Debug, Default)]
struct Level {
    /// Operators of the current term. A term may nest as deep as it has operators.
    operators: usize,
    /// The depth of the deepest bracket of the current term.
    inner: usize,
    /// The deepest term so far.
    deepest: usize,
    /// `?` nests to the right.
    conditions: usize,
    /// `&&` and `||`, which the parser balances.
    logic: usize,
}

impl Level {
    fn around(&self) -> usize {
        self.conditions + 2 * (usize::BITS - self.logic.leading_zeros()) as usize
    }

    fn depth(&self) -> usize {
        1 + self.around() + self.deepest.max(self.operators + self.inner)
    }

    fn end_term(&mut self) {
        self.deepest = self.deepest.max(self.operators + self.inner);
        (self.operators, self.inner) = (0, 0);
    }

    fn read(&mut self, symbol: &str) {
        match symbol {
            "," | ":" => self.end_term(),
            "?" => {
                self.end_term();
                self.conditions += 1;
            }
            "&&" | "||" => {
                self.end_term();
                self.logic += 1;
            }
            "!" | "." | "+" | "-" | "*" | "/" | "%" | "<" | ">" | "==" | "!=" | "<=" | ">=" | "in" => {
                self.operators += 1;
            }
            _ => {}
        }
    }
}

/// The levels that are open. Their depth is never less than that of the syntax tree.
struct Depth(Vec<Level>);

impl Depth {
    fn check(tokens: &[Token]) -> Result<(), Problem> {
        let mut depth = Self(vec![Level::default()]);
        for token in tokens {
            depth.read(token.text);
            if depth.now() > EXPRESSION_DEPTH {
                return Err(Problem::new(token.start, format!("is nested deeper than {EXPRESSION_DEPTH}")));
            }
        }
        Ok(())
    }

    fn read(&mut self, symbol: &str) {
        match (symbol, &mut self.0[..]) {
            ("(" | "[" | "{", [.., level]) => {
                level.operators += 1;
                self.0.push(Level::default());
            }
            (")" | "]" | "}", [.., outer, level]) => {
                outer.inner = outer.inner.max(level.depth());
                self.0.pop();
            }
            (_, [.., level]) => level.read(symbol),
            (_, []) => {}
        }
    }

    fn now(&self) -> usize {
        let Some((last, outer)) = self.0.split_last() else { return 0 };
        outer.iter().map(|level| 1 + level.around() + level.operators).sum::<usize>() + last.depth()
    }
}
