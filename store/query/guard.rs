//! Admits exactly one read-only statement.
//!
//! SELECT, WITH, VALUES and EXPLAIN of them are taken; SHOW TABLES, SHOW COLUMNS and DESCRIBE are
//! turned into a SELECT over `information_schema`. Everything else is refused by name: DDL, DML,
//! COPY, SET, tables that are files or URLs.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, ShowStatementFilter,
    ShowStatementFilterPosition, ShowStatementOptions, Statement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::{Position, QueryError, SQL_BYTES_MAX};

/// Nesting of expressions and subqueries that is taken.
const DEPTH_MAX: usize = 64;

/// Tables in FROM that one statement has at most: each is joined to all before it, so plans nest
/// as deep.
const TABLES_MAX: usize = 256;

/// Words and signs that are taken without a comma between them. Each term of a chain (`a + b + c`,
/// SELECT .. UNION SELECT ..) is a level of the parsed statement, whatever the parser's own limit:
/// walking through very many, or only dropping them, takes more stack than there is.
const CHAIN_MAX: usize = 2_000;

/// Functions that may stand in FROM.
const TABLE_FUNCTIONS: [&str; 3] = ["generate_series", "range", "unnest"];

/// Parses `sql` and admits it if it is one read-only statement.
///
/// # Errors
/// [`QueryError::Syntax`] or [`QueryError::Refused`], with what to write instead.
pub fn parse(sql: &str) -> Result<Statement, QueryError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(refused(format!(
            "statement has {} bytes; the limit is {SQL_BYTES_MAX}",
            sql.len()
        )));
    }
    let mut statements = parse_all(sql)?;
    let statement = match (statements.pop(), statements.len()) {
        (Some(statement), 0) => statement,
        (None, _) => return Err(refused("statement is empty".into())),
        (Some(_), n) => {
            return Err(refused(format!("one statement at a time; this text has {}", n + 1)));
        }
    };
    admit(statement)
}

fn parse_all(sql: &str) -> Result<Vec<Statement>, QueryError> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| {
        let at = e.location;
        QueryError::Syntax {
            message: e.message,
            position: Some(Position { line: at.line, column: at.column }),
        }
    })?;
    if longest_chain(&tokens) > CHAIN_MAX {
        return Err(refused(format!(
            "more than {CHAIN_MAX} words and signs stand in a row without a comma; for many values \
             of one column there is IN (..)"
        )));
    }
    let mut tokens = numbered_names(tokens);
    plain_names(&mut tokens);
    Parser::new(&dialect)
        .with_recursion_limit(DEPTH_MAX)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|e| syntax(e, sql))
}

/// The most tokens in a row that may make one chain: what stands in brackets is a term of the chain
/// around it, as long as its own longest.
fn longest_chain(tokens: &[TokenWithSpan]) -> usize {
    // Per open bracket: the chain at hand, and the longest before it.
    let mut open: Vec<(usize, usize)> = vec![(0, 0)];
    for token in tokens {
        let level = open.len() - 1;
        let (chain, longest) = &mut open[level];
        match token.token {
            Token::Whitespace(_) => {}
            Token::Comma => (*chain, *longest) = (0, (*longest).max(*chain)),
            Token::LParen | Token::LBracket => open.push((1, 0)),
            Token::RParen | Token::RBracket if level > 0 => {
                let inner = (*chain).max(*longest);
                open.pop();
                open[level - 1].0 += inner;
            }
            _ => *chain += 1,
        }
    }
    // One that is not closed is no statement, but may be parsed far.
    open.iter().map(|(chain, longest)| chain.max(longest)).sum()
}

/// A number that begins with a dot right behind a word is a part of a name: `a.0`, `disk.0.io`.
fn numbered_names(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let touches = out.last().is_some_and(|before| before.span.end == token.span.start);
        match (out.last_mut().map(|before| &mut before.token), token.token) {
            (Some(Token::Word(before)), Token::Number(text, long))
                if touches && before.quote_style.is_none() && text.starts_with('.') =>
            {
                let value = format!("{}{}", &text[1..], if long { "L" } else { "" });
                let word = Word { value, quote_style: None, keyword: Keyword::NoKeyword };
                out.push(TokenWithSpan { token: Token::Period, span: token.span });
                out.push(TokenWithSpan { token: Token::Word(word), span: token.span });
            }
            // What follows a number without a space: `a.0b`.
            (Some(Token::Word(before)), Token::Word(word))
                if touches && before.quote_style.is_none() && word.quote_style.is_none() =>
            {
                before.value.push_str(&word.value);
                if let Some(before) = out.last_mut() {
                    before.span.end = token.span.end;
                }
            }
            (_, kind) => out.push(TokenWithSpan { token: kind, span: token.span }),
        }
    }
    out
}

/// Words on either side of a dot are names, whatever they mean alone: `user.id`, `http.order`.
fn plain_names(tokens: &mut [TokenWithSpan]) {
    for i in 0..tokens.len() {
        let dot = |j: Option<usize>| {
            j.and_then(|j| tokens.get(j)).is_some_and(|t| t.token == Token::Period)
        };
        if (dot(i.checked_sub(1)) || dot(i.checked_add(1)))
            && let Token::Word(word) = &mut tokens[i].token
        {
            word.keyword = Keyword::NoKeyword;
        }
    }
}

fn syntax(error: ParserError, sql: &str) -> QueryError {
    let message = match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => m,
        ParserError::RecursionLimitExceeded => {
            return refused(format!("statement nests deeper than {DEPTH_MAX}"));
        }
    };
    // The parser writes the place into its text only.
    let (text, position) = match message.rsplit_once(" at Line: ") {
        // Only the end of the text has no place.
        None => (message.as_str(), Some(end(sql))),
        Some((text, place)) => {
            let mut numbers = place.split(", Column: ").map(|n| n.trim().parse::<u64>().ok());
            match (numbers.next().flatten(), numbers.next().flatten()) {
                (Some(line), Some(column)) => (text, Some(Position { line, column })),
                _ => (message.as_str(), None),
            }
        }
    };
    QueryError::Syntax { message: text.to_owned(), position }
}

/// The place behind the last character.
fn end(sql: &str) -> Position {
    let last = sql.rsplit('\n').next().unwrap_or_default();
    let line = sql.bytes().filter(|b| *b == b'\n').count() as u64 + 1;
    Position { line, column: last.chars().count() as u64 + 1 }
}

fn refused(message: String) -> QueryError {
    QueryError::Refused(message)
}

fn admit(statement: Statement) -> Result<Statement, QueryError> {
    match statement {
        Statement::Query(_) => {}
        Statement::Explain { statement: ref inner, query_plan, estimate, ref options, .. } => {
            if !matches!(**inner, Statement::Query(_)) {
                return Err(refused(format!("EXPLAIN takes a query, not {}", verb(inner))));
            }
            if query_plan || estimate || options.is_some() {
                return Err(refused(
                    "only EXPLAIN, EXPLAIN VERBOSE and EXPLAIN ANALYZE are \
                                    answered"
                        .into(),
                ));
            }
        }
        Statement::ShowTables { show_options, .. } => {
            let like = filter("table_name", &show_options)?;
            return parse_one(&format!(
                "SELECT * FROM information_schema.tables{like} ORDER BY table_name"
            ));
        }
        Statement::ShowColumns { show_options, .. } => {
            let table = show_options
                .show_in
                .as_ref()
                .and_then(|i| i.parent_name.as_ref())
                .ok_or_else(|| refused("write SHOW COLUMNS FROM a table".into()))?;
            let table = dotted(table)?;
            let like = filter("column_name", &show_options)?;
            return describe(&table, &like.replacen(" WHERE", " AND", 1));
        }
        Statement::ExplainTable { ref table_name, .. } => {
            return describe(&dotted(table_name)?, "");
        }
        other => {
            return Err(refused(format!(
                "{} is refused: SQL here is one read-only statement (SELECT, WITH, VALUES, \
                 EXPLAIN, SHOW TABLES, SHOW COLUMNS or DESCRIBE)",
                verb(&other)
            )));
        }
    }
    match statement.visit(&mut ReadOnly::default()) {
        ControlFlow::Continue(()) => Ok(statement),
        ControlFlow::Break(message) => Err(refused(message)),
    }
}

fn describe(table: &str, like: &str) -> Result<Statement, QueryError> {
    parse_one(&format!(
        "SELECT column_name, data_type, level FROM information_schema.columns \
         WHERE table_name = {}{like} ORDER BY column_name",
        literal(table)
    ))
}

fn parse_one(sql: &str) -> Result<Statement, QueryError> {
    parse_all(sql)?.pop().ok_or_else(|| refused("statement is empty".into()))
}

fn filter(column: &str, options: &ShowStatementOptions) -> Result<String, QueryError> {
    let filter = match &options.filter_position {
        None => return Ok(String::new()),
        Some(ShowStatementFilterPosition::Infix(f) | ShowStatementFilterPosition::Suffix(f)) => f,
    };
    match filter {
        ShowStatementFilter::Like(text) => Ok(format!(" WHERE {column} LIKE {}", literal(text))),
        ShowStatementFilter::ILike(text) => Ok(format!(" WHERE {column} ILIKE {}", literal(text))),
        ShowStatementFilter::Where(_) | ShowStatementFilter::NoKeyword(_) => {
            Err(refused("SHOW takes LIKE here; select from information_schema for more".into()))
        }
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The parts of a table name joined by dots.
fn dotted(name: &ObjectName) -> Result<String, QueryError> {
    Ok(parts(name)?.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join("."))
}

/// The parts of a name.
///
/// # Errors
/// If a part is computed, or the whole is the name of a file or URL.
pub(super) fn parts(name: &ObjectName) -> Result<Vec<Ident>, QueryError> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) if ident.quote_style == Some('\'') => {
                Err(refused(format!("files and URLs cannot be queried: {}", ident.value)))
            }
            ObjectNamePart::Identifier(ident) => Ok(ident.clone()),
            ObjectNamePart::Function(_) => Err(refused(format!("table name `{name}` is computed"))),
        })
        .collect()
}

/// The first word or two of a statement.
fn verb(statement: &Statement) -> String {
    let text = statement.to_string();
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    let second = ["TABLE", "EXTERNAL", "VIEW", "SCHEMA", "DATABASE", "INDEX", "FUNCTION", "INTO"];
    match words.as_slice() {
        [first, next] if second.contains(next) => format!("{first} {next}"),
        [first, ..] => (*first).to_owned(),
        [] => "this".to_owned(),
    }
}

/// Refuses what hides inside a query.
#[derive(Default)]
struct ReadOnly {
    tables: usize,
}

impl Visitor for ReadOnly {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() || query.for_clause.is_some() {
            return ControlFlow::Break("FOR UPDATE and the like are refused".into());
        }
        if query.settings.is_some() || query.format_clause.is_some() {
            return ControlFlow::Break("SETTINGS and FORMAT are refused".into());
        }
        if !query.pipe_operators.is_empty() {
            return ControlFlow::Break("pipe syntax (`|>`) is not understood".into());
        }
        set_expr(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        if select.into.is_some() {
            return ControlFlow::Break("SELECT INTO is refused".into());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        self.tables += 1;
        if self.tables > TABLES_MAX {
            return ControlFlow::Break(format!("statement reads more than {TABLES_MAX} tables"));
        }
        match factor {
            TableFactor::Table { name, args: Some(_), .. } => {
                let function = name.to_string().to_ascii_lowercase();
                if TABLE_FUNCTIONS.contains(&function.as_str()) {
                    return ControlFlow::Continue(());
                }
                ControlFlow::Break(format!("there is no table function `{name}`"))
            }
            TableFactor::Table { name, .. } => match parts(name) {
                Ok(_) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e.to_string()),
            },
            TableFactor::Derived { .. }
            | TableFactor::UNNEST { .. }
            | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            other => ControlFlow::Break(format!("`{other}` is not understood in FROM")),
        }
    }
}

fn set_expr(body: &SetExpr) -> ControlFlow<String> {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
        SetExpr::SetOperation { left, right, .. } => {
            set_expr(left)?;
            set_expr(right)
        }
        SetExpr::Table(_) => ControlFlow::Break("write SELECT * FROM a table".into()),
        SetExpr::Insert(s) | SetExpr::Update(s) | SetExpr::Delete(s) | SetExpr::Merge(s) => {
            ControlFlow::Break(format!("{} is refused inside a query", verb(s)))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn takes_and_refuses() {
        // (text, None if taken, else a part of the message)
        let cases: &[(&str, Option<&str>)] = &[
            ("SELECT 1", None),
            ("select * from logs where http.route = '/cart';", None),
            ("WITH a AS (SELECT 1 AS x) SELECT x FROM a", None),
            ("VALUES (1), (2)", None),
            ("SELECT 1 UNION ALL SELECT 2", None),
            ("EXPLAIN SELECT 1", None),
            ("EXPLAIN ANALYZE SELECT 1", None),
            ("SHOW TABLES", None),
            ("SHOW TABLES LIKE 'l%'", None),
            ("SHOW COLUMNS FROM logs", None),
            ("DESCRIBE logs", None),
            ("DESCRIBE metrics.http.requests", None),
            ("SELECT * FROM generate_series(1, 3)", None),
            ("SELECT user.id, k8s.order, session.end FROM logs", None),
            ("SELECT a.0, disk.0.io, x.1e5, y.0b.2 FROM metrics.cpu.0 WHERE a.0 > .5", None),
            ("", Some("empty")),
            ("-- nothing", Some("empty")),
            ("SELECT 1; SELECT 2", Some("has 2")),
            ("SELECT 1; DROP TABLE logs", Some("has 2")),
            ("DROP TABLE logs", Some("DROP TABLE is refused")),
            ("CREATE TABLE x (a INT)", Some("CREATE TABLE is refused")),
            ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", Some("Expected")),
            ("CREATE VIEW v AS SELECT 1", Some("CREATE VIEW is refused")),
            ("INSERT INTO logs VALUES (1)", Some("INSERT INTO is refused")),
            ("UPDATE logs SET a = 1", Some("UPDATE is refused")),
            ("DELETE FROM logs", Some("DELETE is refused")),
            ("TRUNCATE TABLE logs", Some("TRUNCATE TABLE is refused")),
            ("COPY logs TO '/tmp/x'", Some("COPY is refused")),
            ("COPY (SELECT 1) TO 'x.parquet'", Some("COPY is refused")),
            ("SET datafusion.execution.target_partitions = 1", Some("SET is refused")),
            ("RESET x", Some("refused")),
            ("SHOW datafusion.execution.batch_size", Some("refused")),
            ("EXPLAIN DROP TABLE logs", Some("not DROP TABLE")),
            ("EXPLAIN INSERT INTO logs VALUES (1)", Some("not INSERT INTO")),
            ("SELECT * INTO x FROM logs", Some("SELECT INTO")),
            ("SELECT * FROM '/etc/passwd'", Some("files and URLs")),
            ("SELECT * FROM (SELECT * FROM 'http://x/y.csv') t", Some("files and URLs")),
            ("SELECT (SELECT count(*) FROM 'x.csv')", Some("files and URLs")),
            ("SELECT * FROM read_csv('/etc/passwd')", Some("no table function")),
            ("WITH a AS (DELETE FROM logs RETURNING 1) SELECT * FROM a", Some("DELETE")),
            ("SELECT * FROM logs FOR UPDATE", Some("FOR UPDATE")),
            ("BEGIN", Some("refused")),
            ("PREPARE p AS SELECT 1", Some("PREPARE is refused")),
            ("EXECUTE p", Some("EXECUTE is refused")),
            ("CALL f()", Some("CALL is refused")),
            ("ATTACH DATABASE 'x' AS y", Some("refused")),
        ];
        for (sql, expect) in cases {
            match (parse(sql), expect) {
                (Ok(_), None) => {}
                (Ok(s), Some(_)) => panic!("{sql}: taken as {s}"),
                (Err(e), None) => panic!("{sql}: {e}"),
                (Err(e), Some(part)) => {
                    assert!(e.to_string().contains(part), "{sql}: {e}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_parts_of_names() {
        let sql = "SELECT a.0.b, c.0d.1 + 1.5 FROM t.0 WHERE a.1 > .5";
        assert_eq!(parse(sql).unwrap().to_string(), sql);
        // A space parts.
        assert!(parse("SELECT a .5 FROM t").is_err());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let e = parse("SELECT a\nFROM logs WHER x = 1 GROUP").unwrap_err();
        assert_eq!(e.code(), "syntax");
        assert_eq!(e.position().map(|p| p.line), Some(2));
        let e = parse("SELECT 'a").unwrap_err();
        assert!(e.position().is_some(), "{e}");
    }

    #[test]
    fn deep_and_long_statements_are_refused() {
        let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(parse(&deep).is_err());
        for chain in [
            format!("SELECT 1{}", "+1".repeat(60_000)),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(10_000)),
            format!("SELECT NULL{}", " IS NULL".repeat(20_000)),
            format!("SELECT x{}", "[1]".repeat(60_000)),
            format!("SELECT {}1{}", "(".repeat(40), format!("{})", "+1".repeat(100)).repeat(40)),
            format!("SELECT * FROM logs WHERE (a = 1{}", " OR a = 1".repeat(20_000)),
        ] {
            let refused = parse(&chain).unwrap_err().to_string();
            assert!(refused.contains("in a row without a comma"), "{refused}");
        }
        let list = format!("SELECT 1 IN (1{})", ", 1".repeat(10_000));
        assert!(parse(&list).is_ok());
        let values = format!("VALUES (1, 2){}", ", (1 + 2, -2)".repeat(10_000));
        assert!(parse(&values).is_ok());
        let long = format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX));
        assert_eq!(parse(&long).unwrap_err().code(), "refused");
    }
}
