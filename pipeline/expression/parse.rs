//! From SQL text to a syntax tree whose names are column names.
//!
//! Dotted names stand bare: before parsing, a run of unquoted words joined by dots becomes one
//! word, so that `http.route`, `user.id` and `order.group` are names whatever keywords they
//! contain. Quoted parts are never joined.

use std::ops::{ControlFlow, Range};

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr as SqlExpr, Function, FunctionArguments, Ident, Query,
    Subscript, UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{
    Location, Span as TokenSpan, Token, TokenWithSpan, Tokenizer, Word,
};

use super::functions::{self, Lookup};
use crate::config::Text;
use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::edge::Edge;

/// Most tokens of one expression: bounds the work of planning it.
const TOKENS_MAX: usize = 4_000;

/// Deepest nesting of parentheses and calls.
const DEPTH_MAX: usize = 64;

/// Deepest tree: copying and evaluating one recurses, and has to fit on a stack. Chains of AND
/// and OR do not count, they are balanced; other chains (`a || b || ...`) do.
const TREE_DEPTH_MAX: usize = 128;

/// The text as one expression; names are still as written, dotted ones joined.
pub(super) fn parse(text: &Text) -> Result<SqlExpr, Diagnostics> {
    let dialect = GenericDialect {};
    let mut tokens = Vec::new();
    if let Err(e) =
        Tokenizer::new(&dialect, &text.text).tokenize_with_location_into_buf(&mut tokens)
    {
        return Err(syntax(text, &e.message, Some(e.location)).into());
    }
    if tokens.len() > TOKENS_MAX {
        let message = format!("SQL expression of {} tokens", tokens.len());
        return Err(Diagnostic::error("W301", message)
            .at(&text.span)
            .label(format!("at most {TOKENS_MAX} are possible"))
            .into());
    }
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(DEPTH_MAX)
        .with_tokens_with_locations(join_names(tokens));
    let mut expr = parser.parse_expr().map_err(|e| from_parser(text, &e))?;
    let rest = parser.next_token();
    if rest.token != Token::EOF {
        let message = format!("expected the end of the expression, found: {}", rest.token);
        return Err(syntax(text, &message, Some(rest.span.start)).into());
    }
    if expr.visit(&mut Balance { depth: 0 }).is_break() {
        // Dropping it would recurse as deep as the tree is.
        dismantle(expr);
        return Err(syntax(text, "it is nested too deeply", None).into());
    }
    Ok(expr)
}

/// Turns chains of AND and of OR, which parse as deep as they are long, into balanced trees.
struct Balance {
    depth: usize,
}

impl VisitorMut for Balance {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        if let SqlExpr::BinaryOp { op, .. } = expr
            && matches!(op, BinaryOperator::And | BinaryOperator::Or)
        {
            let op = op.clone();
            let whole = std::mem::replace(expr, SqlExpr::Value(Value::Null.into()));
            *expr = balanced(chain(whole, &op), &op);
        }
        self.depth += 1;
        if self.depth > TREE_DEPTH_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_expr(&mut self, _: &mut SqlExpr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// The operands of a chain of `op`, from left to right.
fn chain(expr: SqlExpr, op: &BinaryOperator) -> Vec<SqlExpr> {
    let mut operands = Vec::new();
    let mut todo = vec![expr];
    while let Some(next) = todo.pop() {
        match next {
            SqlExpr::BinaryOp { left, op: other, right } if other == *op => {
                todo.push(*right);
                todo.push(*left);
            }
            operand => operands.push(operand),
        }
    }
    operands
}

fn balanced(mut operands: Vec<SqlExpr>, op: &BinaryOperator) -> SqlExpr {
    while operands.len() > 1 {
        let mut level = Vec::with_capacity(operands.len().div_ceil(2));
        let mut pairs = operands.into_iter();
        while let Some(left) = pairs.next() {
            level.push(match pairs.next() {
                None => left,
                Some(right) => SqlExpr::BinaryOp {
                    left: Box::new(left),
                    op: op.clone(),
                    right: Box::new(right),
                },
            });
        }
        operands = level;
    }
    operands.pop().unwrap_or(SqlExpr::Value(Value::Null.into()))
}

/// Drops a tree whose depth comes from chains of binary operators.
fn dismantle(expr: SqlExpr) {
    let mut todo = vec![expr];
    while let Some(next) = todo.pop() {
        if let SqlExpr::BinaryOp { left, right, .. } = next {
            todo.push(*left);
            todo.push(*right);
        }
    }
}

/// Joins unquoted words that dots connect without space into one word.
pub(super) fn join_names(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for next in tokens {
        let part = match (&next.token, out.as_slice()) {
            (Token::Word(word), [.., before, dot])
                if word.quote_style.is_none() && dot.token == Token::Period =>
            {
                match &before.token {
                    Token::Word(first) if first.quote_style.is_none() => {
                        // A quoted part further on keeps the whole name apart.
                        Some((format!("{}.{}", first.value, word.value), before.span.start))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let Some((value, start)) = part else {
            out.push(next);
            continue;
        };
        out.truncate(out.len() - 2);
        let word = Word { value, quote_style: None, keyword: Keyword::NoKeyword };
        let span = TokenSpan { start, end: next.span.end };
        out.push(TokenWithSpan { token: Token::Word(word), span });
    }
    out
}

fn from_parser(text: &Text, e: &ParserError) -> Diagnostic {
    match e {
        ParserError::RecursionLimitExceeded => syntax(text, "it is nested too deeply", None),
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => {
            let (message, location) = match m.rfind(" at Line: ") {
                Some(at) => (&m[..at], read_location(&m[at..])),
                None => (m.as_str(), None),
            };
            let end = m.contains("found: EOF").then(|| end_location(&text.text));
            syntax(text, message, end.or(location))
        }
    }
}

fn read_location(text: &str) -> Option<Location> {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
    Some(Location { line: numbers.next()?, column: numbers.next()? })
}

fn end_location(text: &str) -> Location {
    let line = text.matches('\n').count() as u64 + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    Location { line, column }
}

fn syntax(text: &Text, message: &str, location: Option<Location>) -> Diagnostic {
    let mut message = message.to_owned();
    if let Some(first) = message.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let message = message.replace("found: EOF", "found the end");
    let span = match location {
        Some(l) => {
            let start = offset(&text.text, l);
            let rest = &text.text[start..];
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let first = rest.chars().next().map_or(0, char::len_utf8);
            text.locate(start..start + word.unwrap_or(rest.len()).max(first))
        }
        None => text.span.clone(),
    };
    Diagnostic::error("W301", "mistake in a SQL expression").at(&span).label(message)
}

/// The byte at a one-based line and column (in characters).
fn offset(text: &str, at: Location) -> usize {
    let line = usize::try_from(at.line).unwrap_or(1).max(1);
    let column = usize::try_from(at.column).unwrap_or(1).max(1);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let inside = text[start..].char_indices().nth(column - 1).map(|(i, _)| i);
    start + inside.unwrap_or(text.len() - start)
}

/// The bytes of an identifier.
pub(super) fn range(text: &str, span: TokenSpan) -> Range<usize> {
    if span.start.line == 0 {
        return 0..text.len();
    }
    let start = offset(text, span.start);
    start..offset(text, span.end).max(start)
}

/// Columns that an expression reads: name, and where it first stands in the text.
pub(super) type Columns = Vec<(String, Range<usize>)>;

/// Makes every name of `expr` the name of one column (a quoted identifier) or a struct field of
/// one, and checks names and functions against `edge`. Gives the columns in order of appearance.
pub(super) fn resolve(
    expr: &mut SqlExpr,
    text: &Text,
    edge: &Edge,
    diagnostics: &mut Vec<Diagnostic>,
) -> Columns {
    let mut resolver = Resolver { text, edge, columns: Vec::new(), diagnostics };
    let _ = expr.visit(&mut resolver);
    resolver.columns
}

struct Resolver<'a> {
    text: &'a Text,
    edge: &'a Edge,
    columns: Columns,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl VisitorMut for Resolver<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        let d = Diagnostic::error("W305", "subquery in an expression over one row");
        self.diagnostics.push(d.at(&self.text.span).label("subqueries belong into SQL queries"));
        ControlFlow::Break(())
    }

    fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        match expr {
            SqlExpr::Identifier(ident) => {
                let ident = ident.clone();
                *expr = self.name(&ident);
            }
            SqlExpr::CompoundIdentifier(parts) => {
                let parts = std::mem::take(parts);
                *expr = self.quoted(&parts);
            }
            SqlExpr::Function(function) => self.function(function),
            SqlExpr::UnaryOp { op, expr: inner } => {
                // What may arrive as text has no minus and no NOT of its own.
                let unknown = |name| self.edge.column_type(name).is_none();
                let number = Value::Number("-1".into(), false);
                let (value, operator) = match op {
                    UnaryOperator::Minus => (number, BinaryOperator::Multiply),
                    UnaryOperator::Not => (Value::Boolean(false), BinaryOperator::Eq),
                    _ => return ControlFlow::Continue(()),
                };
                if matches!(&**inner, SqlExpr::Identifier(i) if unknown(&i.value)) {
                    let value = Box::new(SqlExpr::Value(value.into()));
                    let column = std::mem::replace(inner, value.clone());
                    *expr = SqlExpr::BinaryOp { left: value, op: operator, right: column };
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Resolver<'_> {
    fn name(&mut self, ident: &Ident) -> SqlExpr {
        let place = range(&self.text.text, ident.span);
        let parts: Vec<&str> = ident.value.split('.').collect();
        if ident.quote_style.is_none() {
            for known in (1..parts.len()).rev() {
                let column = parts[..known].join(".");
                if self.edge.columns.contains_key(&ident.value) {
                    break;
                }
                if has_field(self.edge.column_type(&column), &parts[known..]) {
                    self.column(&column, place);
                    return fields(&column, ident.span, &parts[known..]);
                }
            }
        }
        self.column(&ident.value, place);
        SqlExpr::Identifier(Ident::with_quote_and_span('"', ident.span, ident.value.clone()))
    }

    /// A name with a quoted part: its first part is the column, the rest struct fields.
    fn quoted(&mut self, parts: &[Ident]) -> SqlExpr {
        let Some((first, rest)) = parts.split_first() else {
            return SqlExpr::Identifier(Ident::new(""));
        };
        let names: Vec<&str> = rest.iter().map(|p| p.value.as_str()).collect();
        let place = range(&self.text.text, TokenSpan::union_iter(parts.iter().map(|p| p.span)));
        if has_field(self.edge.column_type(&first.value), &names) {
            self.column(&first.value, place);
        } else {
            let whole: Vec<&str> = parts.iter().map(|p| p.value.as_str()).collect();
            let written = parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
            let d = Diagnostic::error("W302", format!("no such struct field: `{written}`"));
            self.diagnostics.push(
                d.at(&self.text.locate(place))
                    .label("quoted parts are never joined to one name")
                    .hint(format!("write \"{}\" for the column of that name", whole.join("."))),
            );
        }
        fields(&first.value, first.span, &names)
    }

    fn column(&mut self, name: &str, place: Range<usize>) {
        if self.columns.iter().any(|(n, _)| n == name) {
            return;
        }
        self.diagnostics.extend(self.edge.check(name, &self.text.locate(place.clone())));
        self.columns.push((name.to_owned(), place));
    }

    fn function(&mut self, function: &Function) {
        let name = function.name.to_string().to_lowercase();
        let span = function.name.0.first().and_then(|p| p.as_ident()).map(|i| i.span);
        let place = span.map_or(0..self.text.text.len(), |s| range(&self.text.text, s));
        let place = self.text.locate(place);
        if function.over.is_some() {
            let d = Diagnostic::error("W305", format!("window function: `{name}`"));
            self.diagnostics.push(d.at(&place).label("OVER belongs into SQL queries"));
            return;
        }
        let no_parentheses = matches!(function.args, FunctionArguments::None);
        match functions::lookup(&name) {
            Lookup::Scalar => {}
            Lookup::Clock | Lookup::Unknown if no_parentheses && name == "user" => {
                let d = Diagnostic::error("W302", "`user` alone is a keyword of SQL");
                self.diagnostics.push(d.at(&place).label("write \"user\" in quotes"));
            }
            Lookup::Clock => {
                let d = Diagnostic::error("W305", format!("function `{name}` is not repeatable"));
                self.diagnostics.push(
                    d.at(&place)
                        .label("it gives another value at each replay of the journal")
                        .hint("compare with the column `timestamp`, or use a window"),
                );
            }
            Lookup::Aggregate => {
                let d = Diagnostic::error("W305", format!("aggregate outside a window: `{name}`"));
                self.diagnostics.push(
                    d.at(&place)
                        .label("an expression sees one row")
                        .hint("aggregate with an operator of type `window`"),
                );
            }
            Lookup::Unknown => {
                let d = Diagnostic::error("W304", format!("unknown function: `{name}`"));
                let known = functions::names();
                let d = match nearest(&name, known.iter().map(String::as_str)) {
                    Some(n) => d.label(format!("did you mean `{n}`?")),
                    None => d.label("there is no such function"),
                };
                self.diagnostics.push(d.at(&place));
            }
        }
    }
}

/// Whether `path` leads to a field of a value of type `data_type`.
fn has_field(data_type: Option<&DataType>, path: &[&str]) -> bool {
    match (data_type, path) {
        (Some(_), []) => true,
        (Some(DataType::Struct(fields)), [first, rest @ ..]) => fields
            .iter()
            .find(|f| f.name() == first)
            .is_some_and(|f| has_field(Some(f.data_type()), rest)),
        _ => false,
    }
}

/// `column['a']['b']`.
fn fields(column: &str, span: TokenSpan, path: &[&str]) -> SqlExpr {
    let root = SqlExpr::Identifier(Ident::with_quote_and_span('"', span, column));
    let access_chain = path
        .iter()
        .map(|name| {
            let index = SqlExpr::Value(Value::SingleQuotedString((*name).to_owned()).into());
            AccessExpr::Subscript(Subscript::Index { index })
        })
        .collect();
    SqlExpr::CompoundFieldAccess { root: Box::new(root), access_chain }
}
