//! `weir list` and `weir describe TYPE`.

use std::process::ExitCode;

use weir_pipeline::component::Kind;
use weir_pipeline::config::reference;
use weir_pipeline::diagnostic::nearest;

use crate::components::ALL;
use crate::client::out;

/// Prints every type with its line.
pub(crate) fn list() -> ExitCode {
    fn section<P: ?Sized>(title: &str, kinds: &[Kind<P>]) {
        out(title);
        for kind in kinds {
            out(&format!("  {:26}{}", kind.name, kind.about));
        }
    }
    section("sources", ALL.sources);
    section("operators", ALL.operators);
    section("sinks", ALL.sinks);
    out("alerts");
    out(&format!("  {:26}{}", ALL.alert.name, ALL.alert.about));
    ExitCode::SUCCESS
}

/// Prints the reference page of a type.
pub(crate) fn describe(name: &str) -> ExitCode {
    match pages().into_iter().find(|(n, _)| *n == name) {
        Some((_, page)) => {
            out(&page);
            ExitCode::SUCCESS
        }
        None => {
            let hint = match nearest(name, pages().iter().map(|(n, _)| *n)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`weir list` lists every type".to_owned(),
            };
            eprintln!("error: no such type: `{name}`\nhint: {hint}");
            ExitCode::FAILURE
        }
    }
}

/// Every type with its reference page.
pub(crate) fn pages() -> Vec<(&'static str, String)> {
    fn of<P: ?Sized>(kinds: &[Kind<P>]) -> impl Iterator<Item = (&'static str, String)> {
        kinds.iter().map(|k| (k.name, reference(k)))
    }
    let alert = std::slice::from_ref(ALL.alert);
    of(ALL.sources).chain(of(ALL.operators)).chain(of(ALL.sinks)).chain(of(alert)).collect()
}
