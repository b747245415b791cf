//! `weir sql`: asks the server, prints a table, NDJSON or CSV.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;

use crate::cli::{Format, Sql};
use crate::client::{self, Client, Failure, out, out_json};

/// Widest cell on a terminal, in characters; elsewhere nothing is cut.
const CELL_CHARS_MAX: usize = 80;

/// Exit code 1 if the statement is refused or fails.
pub(crate) fn run(args: &Sql) -> Result<ExitCode> {
    Ok(client::with(&args.remote, |client| {
        ask(args, client).map_err(|failure| explain(failure, &args.sql))?;
        Ok(ExitCode::SUCCESS)
    }))
}

fn ask(args: &Sql, client: &Client) -> Result<(), Failure> {
    let accept = match args.format {
        Format::Table => "application/json",
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv",
    };
    let request = client
        .request(Method::POST, &["api", "v1", "sql"])?
        .header(ACCEPT, accept)
        .header(CONTENT_TYPE, "text/plain")
        .body(args.sql.clone());
    if args.format != Format::Table {
        return client.copy(request);
    }
    let answer = client.json(request)?;
    if args.remote.json {
        out_json(&answer);
    } else {
        let limit = if std::io::stdout().is_terminal() { CELL_CHARS_MAX } else { usize::MAX };
        out(&table(&answer, limit));
    }
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("warning: {warning}");
    }
    match answer["error"]["message"].as_str() {
        // It failed after its first row.
        Some(message) => Err(Failure::Refused { message: message.to_owned(), place: None }),
        None => Ok(()),
    }
}

/// Shows the line of the statement that the server points to.
fn explain(failure: Failure, sql: &str) -> Failure {
    let Failure::Refused { message, place: Some((line, column)) } = failure else {
        return failure;
    };
    let index = usize::try_from(line).unwrap_or(1).saturating_sub(1);
    let text = sql.lines().nth(index).unwrap_or_default();
    let indent = usize::try_from(column).unwrap_or(1).saturating_sub(1).min(text.chars().count());
    let message = format!("{message}\n  | {text}\n  | {}^", " ".repeat(indent));
    Failure::Refused { message, place: None }
}

/// Columns side by side, numbers to the right.
fn table(answer: &Value, limit: usize) -> String {
    let list = |key: &str| answer[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> =
        list("columns").iter().map(|c| c["name"].as_str().unwrap_or_default()).collect();
    let rows: Vec<Vec<String>> = list("rows")
        .iter()
        .map(|row| names.iter().map(|name| cell(&row[*name], limit)).collect())
        .collect();
    let number: Vec<bool> = names
        .iter()
        .map(|name| list("rows").iter().all(|row| row[*name].is_number() || row[*name].is_null()))
        .collect();
    let width: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let cells = rows.iter().map(|r| r[i].chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(i, cell)| {
            let w = width[i];
            if number[i] { format!("{cell:>w$}") } else { format!("{cell:w$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())];
    lines.push(width.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>().join("  "));
    lines.extend(rows.iter().map(|r| line(r)));
    lines.push(crate::check::count(rows.len(), "row"));
    lines.join("\n")
}

/// A value on one line: control characters would break the table, or speak to the terminal.
fn cell(value: &Value, limit: usize) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i >= limit {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_control_characters_shown() {
        let answer = json!({
            "columns": [{"name": "service.name"}, {"name": "n"}],
            "rows": [{"service.name": "a\u{1b}b", "n": 7}, {"service.name": null, "n": 12}],
        });
        let expected =
            "service.name   n\n------------  --\na\\u{1b}b       7\n              12\n2 rows";
        assert_eq!(table(&answer, 80), expected);
    }

    #[test]
    fn a_mistake_is_pointed_at() {
        let failure = Failure::Refused { message: "no column `b`".into(), place: Some((2, 3)) };
        let shown = explain(failure, "SELECT a\n, b FROM t").to_string();
        assert_eq!(shown, "no column `b`\n  | , b FROM t\n  |   ^");
    }
}
