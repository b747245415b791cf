//! Every code that a diagnostic can have. A code never changes its meaning and is not used again.

/// Code, and what it says.
pub const CODES: &[(&str, &str)] = &[
    // Files and their shape.
    ("W001", "the file is not TOML"),
    ("W002", "a file or folder cannot be read"),
    ("W003", "a pipeline file has no such key or table at its top"),
    ("W004", "a file is empty"),
    // Keys and values.
    ("W010", "no component has this type"),
    ("W011", "`type` is missing"),
    ("W012", "a value is of the wrong kind (text, number, list, table)"),
    ("W013", "a key is missing"),
    ("W014", "there is no such field"),
    ("W015", "a value is not one that the field can have"),
    ("W016", "a variable is not set and has no default"),
    ("W017", "`${` does not begin a variable"),
    ("W018", "a program stands both inline and in a file, or in neither"),
    ("W019", "a secret stands in the file instead of a reference to it"),
    // The graph.
    ("W020", "an id or name that cannot be one"),
    ("W021", "a source is defined twice"),
    ("W022", "two parts have the same id"),
    ("W023", "an input names nothing that exists"),
    ("W024", "an input names an output that does not exist"),
    ("W025", "an input is a pattern, or is read twice"),
    ("W026", "inputs go in a circle"),
    ("W027", "nobody reads an output (warning)"),
    ("W028", "two files define the same pipeline"),
    ("W029", "an input names a sink"),
    ("W030", "a column does not exist on a closed edge"),
    ("W031", "a column is close to a known one on an open edge (warning)"),
    // Versions of files.
    ("W041", "a file needs what is wrong in another one"),
    ("W042", "a source is removed that is still read"),
    ("W043", "the last good version of a file cannot run any more"),
    ("W044", "what was kept of a plan does not hold it"),
    ("W045", "a file that shall be replayed has no pipeline"),
    ("W046", "there is no such lookup"),
    ("W047", "a lookup table cannot be read or used"),
    // Tests, the server, VRL.
    ("W050", "a `[[tests]]` entry is not well formed"),
    ("W060", "an address can be reached from outside without protection"),
    ("W061", "the same, allowed by `insecure` (warning)"),
    ("W070", "a test could not run"),
    ("W071", "a test does not give what it expects"),
    ("W080", "a table cannot have this name"),
    ("W085", "a VRL program does not compile"),
    ("W086", "a VRL program compiles with a warning"),
    // Receivers, routes, alerts.
    ("W150", "a receiver is not well formed"),
    ("W151", "a webhook is not well formed"),
    ("W152", "a PagerDuty receiver is not well formed"),
    ("W153", "a Slack receiver is not well formed"),
    ("W154", "an email receiver is not well formed"),
    ("W155", "the set of receivers or routes is not well formed"),
    ("W156", "a route is not well formed"),
    ("W160", "an expression in a template is not well formed"),
    ("W161", "a template uses a variable of another system"),
    ("W162", "a filter in a template is unknown or not well formed"),
    ("W163", "an option of an alert does not fit its input"),
    ("W164", "an alert names a column that its input does not have"),
    // SQL expressions.
    ("W301", "the expression is not SQL"),
    ("W302", "a name in the expression means nothing"),
    ("W303", "a name in the expression can mean two things"),
    ("W304", "there is no such SQL function"),
    ("W305", "the expression cannot stand in a pipeline"),
    ("W306", "the expression cannot be evaluated: types do not fit"),
    ("W307", "a condition is not true or false"),
    ("W308", "an aggregate that windows cannot run"),
    // Windows and staleness.
    ("W310", "an option of an operator is out of range"),
    ("W311", "a window has two columns of one name"),
];

/// What a code says.
pub fn about(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(c, _)| *c == code).map(|(_, about)| *about)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    /// Codes that `Diagnostic::error` and `warning` are called with in a folder.
    fn used(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                used(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["::error(\"", "::warning(\"", "self.error(\"", "code: \""] {
                    let codes = text.split(call).skip(1).filter_map(|rest| rest.get(..4));
                    found.extend(codes.filter(|c| c.starts_with('W')).map(str::to_owned));
                }
            }
        }
    }

    #[test]
    fn every_code_is_listed_once() {
        assert!(CODES.is_sorted_by(|a, b| a.0 < b.0));
        let mut found = Vec::new();
        used(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
        assert!(found.len() > 50);
        for code in found {
            assert!(about(&code).is_some(), "`{code}` is not listed");
        }
    }
}
