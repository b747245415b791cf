//! The router's sections as `weir config` prints them.

use super::Explained;
use crate::config::environment::interpolate;
use crate::config::section::Section;
use crate::config::tree::{Table, Value};

/// A row per key. Texts that may hold a secret are masked; references are shown.
pub(super) fn section(path: &str, section: &Section) -> Vec<Explained> {
    let file = &section.file;
    let row = |entry: &crate::config::tree::Entry| {
        let (line, _) =
            crate::diagnostic::Span { file: file.clone(), range: entry.at.clone() }.line_column();
        Explained {
            key: format!("{path}.{}", entry.key),
            value: value(section, &entry.node.value, path.starts_with("receivers.")),
            origin: format!("`{}:{line}`", file.path.display()),
        }
    };
    section.table.0.iter().map(row).collect()
}

fn value(section: &Section, written: &Value, receiver: bool) -> String {
    match written {
        Value::String(text) => {
            let resolved = section.environment.as_ref().and_then(|environment| {
                interpolate(text, environment, &mut Default::default()).ok()
            });
            let text = resolved.unwrap_or_else(|| text.clone());
            format!("{:?}", if receiver { masked(&text) } else { text })
        }
        Value::Datetime(text) => text.clone(),
        Value::Integer(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|i| value(section, &i.value, receiver)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => format!("{{ {} }}", entries(section, table, receiver)),
    }
}

fn entries(section: &Section, table: &Table, receiver: bool) -> String {
    let entry = |e: &crate::config::tree::Entry| {
        // A header may be a secret that is written out.
        let shown = match &e.node.value {
            Value::Table(headers) if receiver && e.key == "headers" => {
                let header = |h: &crate::config::tree::Entry| match &h.node.value {
                    Value::String(text) if !is_reference(text) => format!("{} = \"***\"", h.key),
                    other => format!("{} = {}", h.key, value(section, other, receiver)),
                };
                format!("{{ {} }}", headers.0.iter().map(header).collect::<Vec<_>>().join(", "))
            }
            other => value(section, other, receiver),
        };
        format!("{} = {shown}", e.key)
    };
    table.0.iter().map(entry).collect::<Vec<_>>().join(", ")
}

fn is_reference(text: &str) -> bool {
    text.starts_with("env:") || text.starts_with("file:")
}

/// Of a URL only where it leads: user, path and query may be the secret of a webhook.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let user = if host.len() < authority.len() { "***@" } else { "" };
    let path = if path.len() > 1 { "/***" } else { path };
    format!("{scheme}://{user}{host}{path}")
}
