//! `weir list` and `weir describe TYPE`.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use weir_alerts::notify::RECEIVERS;
use weir_pipeline::component::Kind;
use weir_pipeline::config::{reference, reference_page};
use weir_pipeline::diagnostic::codes::CODES;
use weir_pipeline::diagnostic::nearest;

use crate::cli::Describe;
use crate::client::{DEGRADED, out};
use crate::components::ALL;

/// Prints every type with its line.
pub(crate) fn list() -> ExitCode {
    let mut last = "";
    for row in rows() {
        if row.class != last {
            last = row.class;
            out(last);
        }
        out(&format!("  {:26}{}", row.name, row.about));
    }
    ExitCode::SUCCESS
}

/// Prints the reference page of a type, or writes all of them.
pub(crate) fn run(args: &Describe) -> Result<ExitCode> {
    if let Some(folder) = &args.all {
        return write_all(folder);
    }
    let name = args.name.as_deref().unwrap_or_default();
    let rows = rows();
    if let Some(page) = page(&rows, name) {
        out(&page);
        return Ok(ExitCode::SUCCESS);
    }
    let hint = match nearest(name, rows.iter().map(|r| r.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`weir list` lists every type".to_owned(),
    };
    eprintln!("error: no such type: `{name}`\nhint: {hint}");
    Ok(ExitCode::from(DEGRADED))
}

fn write_all(folder: &Path) -> Result<ExitCode> {
    std::fs::create_dir_all(folder).with_context(|| format!("`{}`", folder.display()))?;
    for (name, page) in pages() {
        let path = folder.join(name);
        std::fs::write(&path, page).with_context(|| format!("`{}`", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A type.
struct Row {
    class: &'static str,
    name: &'static str,
    about: &'static str,
    page: String,
}

/// Every type, class by class.
fn rows() -> Vec<Row> {
    fn of<P: ?Sized>(class: &'static str, kinds: &[Kind<P>]) -> impl Iterator<Item = Row> {
        let row =
            move |k: &Kind<P>| Row { class, name: k.name, about: k.about, page: reference(k) };
        kinds.iter().map(row)
    }
    let alert = std::slice::from_ref(ALL.alert);
    of("sources", ALL.sources)
        .chain(of("operators", ALL.operators))
        .chain(of("sinks", ALL.sinks))
        .chain(of("lookups", ALL.lookups))
        .chain(of("alerts", alert))
        .chain(RECEIVERS.iter().map(|k| Row {
            class: "receivers",
            name: k.name,
            about: k.about,
            page: reference_page(k.name, k.source, &(k.schema)()),
        }))
        .collect()
}

/// The page of all that has this name: a protocol that is read and written is a source and a sink.
fn page(rows: &[Row], name: &str) -> Option<String> {
    let mut of = rows.iter().filter(|r| r.name == name);
    let (first, second) = (of.next()?, of.next());
    let Some(second) = second else { return Some(first.page.clone()) };
    let titled = |row: &Row| {
        let title = format!("# {name}\n");
        let class = row.class.trim_end_matches('s');
        row.page.replacen(&title, &format!("# {name} ({class})\n"), 1)
    };
    Some(of.fold(titled(first) + "\n" + &titled(second), |page, row| page + "\n" + &titled(row)))
}

/// The files of `docs/reference/`: a page per type, the diagnostics, an index.
fn pages() -> Vec<(String, String)> {
    let mut index = "# Reference\n\nWritten by `make docs`; `weir describe TYPE` prints the same \
                     pages.\n"
        .to_owned();
    let mut pages = Vec::new();
    let mut last = "";
    let rows = rows();
    for row in &rows {
        if row.class != last {
            last = row.class;
            let _ = write!(index, "\n## {last}\n\n| type | |\n|---|---|\n");
        }
        let _ = writeln!(index, "| [`{0}`]({0}.md) | {1} |", row.name, row.about);
        let name = format!("{}.md", row.name);
        if pages.iter().all(|(there, _)| *there != name)
            && let Some(page) = page(&rows, row.name)
        {
            pages.push((name, page));
        }
    }
    index += "\n[Diagnostics](diagnostics.md) lists every code that `weir check` can print.\n";
    let mut codes =
        "# Diagnostics\n\nA code never changes its meaning.\n\n| code | |\n|---|---|\n".to_owned();
    for (code, what) in CODES {
        let _ = writeln!(codes, "| {code} | {} |", what.replace('|', "\\|"));
    }
    pages.push(("diagnostics.md".to_owned(), codes));
    pages.push(("README.md".to_owned(), index));
    pages
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
        let mut there: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        let mut expected: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        expected.sort();
        assert_eq!(there, expected, "types and pages differ; `make docs` writes them");
        for (name, page) in pages() {
            let text = std::fs::read_to_string(folder.join(&name)).unwrap();
            assert_eq!(text, page, "{name} is not up to date; `make docs` writes it");
        }
    }
}
