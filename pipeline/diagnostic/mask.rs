//! What of a file may be shown: diagnostics quote the line that is wrong, and secrets stand in
//! lines.
//!
//! In a file that parses, values below names like `token` and the values of receivers are hidden,
//! wherever they stand. In one that does not parse nobody knows where a value ends: from the first
//! line that names such a word to the end of its section nothing but that line's key is shown. URLs
//! lose their user and password everywhere. References (`env:NAME`, `file:PATH`) are no secrets.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::SourceText;

/// Words in the name of a value that may be a secret.
const SECRET_WORDS: [&str; 11] = [
    "token",
    "passw",
    "secret",
    "key",
    "bearer",
    "authorization",
    "credential",
    "pwd",
    "dsn",
    "cookie",
    "passphrase",
];
/// The same, where they are the whole name.
const SECRET_NAMES: [&str; 4] = ["auth", "pass", "basic", "headers"];
/// Words that, besides these, make a section of a broken file one with secrets.
const RECEIVER_WORDS: [&str; 8] =
    ["receivers", "slack", "pagerduty", "webhook", "email", "smtp", "auth", "pass"];
/// Keys of receivers whose values are no secrets.
const RECEIVER_PLAIN: [&str; 9] =
    ["channel", "to", "from", "host", "port", "severity", "timeout", "tls", "max_alerts"];
/// Values shorter than this are not looked for in messages: they would be found in any word.
const VALUE_BYTES_MIN: usize = 4;

/// What of one file must not be shown.
pub(super) struct Mask<'a> {
    text: &'a str,
    parses: bool,
    /// Places of hidden values, quotes included.
    hidden: Vec<Range<usize>>,
    /// Hidden texts.
    values: Vec<String>,
}

impl<'a> Mask<'a> {
    pub(super) fn new(file: &'a SourceText) -> Self {
        // Programs and tables in files of their own have no keys of ours.
        let toml = file.path.extension().is_some_and(|e| e == "toml");
        let (root, errors) = DeTable::parse_recoverable(if toml { &file.text } else { "" });
        let mut mask = Self {
            text: &file.text,
            parses: errors.is_empty(),
            hidden: Vec::new(),
            values: Vec::new(),
        };
        mask.table(root.get_ref(), &mut Vec::new());
        mask
    }

    fn table<'d>(&mut self, table: &'d DeTable<'_>, path: &mut Vec<&'d str>) {
        for (key, value) in table {
            path.push(key.get_ref());
            self.value(value, path);
            path.pop();
        }
    }

    fn value<'d>(&mut self, value: &'d toml::Spanned<DeValue<'_>>, path: &mut Vec<&'d str>) {
        let text = match value.get_ref() {
            DeValue::Table(table) => return self.table(table, path),
            DeValue::Array(items) => return items.iter().for_each(|i| self.value(i, path)),
            DeValue::Boolean(_) => return,
            DeValue::String(text) => Some(text.as_ref()),
            _ => None,
        };
        if !is_secret(path) || text.is_some_and(is_reference) {
            return;
        }
        self.hidden.push(value.span());
        let text = text.or_else(|| self.text.get(value.span()));
        self.values.extend(text.filter(|t| t.len() >= VALUE_BYTES_MIN).map(str::to_owned));
    }

    /// A message about the file.
    pub(super) fn message(&self, message: &str) -> String {
        let mut shown = message.to_owned();
        for value in &self.values {
            shown = shown.replace(value, "***");
        }
        without_userinfo(&shown)
    }

    /// The line at `index`, counted from 0, as many characters long as it is.
    pub(super) fn line(&self, index: usize) -> String {
        let Some(line) = self.text.lines().nth(index) else { return String::new() };
        if !self.parses {
            return without_userinfo(&unparsed(self.text, index));
        }
        let start = line.as_ptr() as usize - self.text.as_ptr() as usize;
        let shown = line.char_indices().map(|(i, c)| {
            // Quotes and brackets stay, so that the line still reads as TOML.
            let shape = matches!(c, '"' | '\'' | '[' | ']' | '{' | '}');
            let hidden = self.hidden.iter().any(|r| r.contains(&(start + i)));
            if hidden && !shape { '*' } else { c }
        });
        without_userinfo(&quoted(&shown.collect::<String>()))
    }
}

/// Whether the value at `path` may be a secret. The names of sections (`[alerts.auth]`) are
/// people's own and say nothing, unless a value stands right there.
fn is_secret(path: &[&str]) -> bool {
    let named = |name: &str| {
        let name = name.to_ascii_lowercase();
        SECRET_WORDS.iter().any(|w| name.contains(w)) || SECRET_NAMES.contains(&name.as_str())
    };
    let Some((last, sections)) = path.split_last() else { return false };
    match path.first() {
        Some(&"receivers") => named(last) || !RECEIVER_PLAIN.contains(last),
        Some(&"server") => path.iter().any(|p| named(p)),
        _ => named(last) || sections.iter().skip(2).any(|p| named(p)),
    }
}

fn is_reference(text: &str) -> bool {
    text.starts_with("env:") || text.starts_with("file:")
}

/// A line of a text that nobody could parse. The first of a section that names a secret keeps its
/// key. Nobody knows where its value ends, so the rest of the section is hidden whole.
fn unparsed(text: &str, index: usize) -> String {
    let mut secret = false;
    let mut multiline = false;
    for (i, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        let header = is_header(trimmed) && !multiline;
        let continues = secret && !header;
        let lower = trimmed.to_ascii_lowercase();
        let named = SECRET_WORDS.iter().chain(&RECEIVER_WORDS).any(|w| lower.contains(w));
        secret = continues || named;
        if i == index {
            return match (secret, header) {
                (true, false) => keep_key(line, continues),
                _ => line.to_owned(),
            };
        }
        let quotes = trimmed.matches("\"\"\"").count() + trimmed.matches("'''").count();
        multiline ^= quotes % 2 == 1;
    }
    String::new()
}

/// `[a.b]` or `[[a]]`, and nothing else that could be a value.
fn is_header(trimmed: &str) -> bool {
    let inner = trimmed.split('#').next().unwrap_or_default().trim_end();
    let inner = inner.strip_prefix('[').and_then(|r| r.strip_suffix(']'));
    inner.is_some_and(|inner| {
        let name = inner.trim_start_matches('[').trim_end_matches(']');
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
        !name.is_empty()
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(word)
    })
}

/// Stars for everything behind the first word; for everything if the line may go on with a value.
fn keep_key(line: &str, continues: bool) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let lead = line.len() - line.trim_start().len();
    let key = line[lead..].find(|c| !word(c)).map_or(line.len(), |end| lead + end);
    let rest = line[key..].trim_start();
    let keep = if continues {
        0
    } else if rest.starts_with('=') {
        line.len() - rest.len() + 1
    } else {
        key
    };
    line.char_indices().map(|(i, c)| if i < keep || c.is_whitespace() { c } else { '*' }).collect()
}

/// Stars between the quotes of a line that names a secret word: it may be part of a program.
fn quoted(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    if !SECRET_WORDS.iter().any(|w| lower.contains(w)) {
        return line.to_owned();
    }
    let mut shown = String::new();
    let mut rest = line;
    while let Some(open) = rest.find(['"', '\'']) {
        let (before, quote) = rest.split_at(open);
        let (quote, inside) = quote.split_at(1);
        let close = inside.find(quote).unwrap_or(inside.len());
        let (inside, after) = inside.split_at(close);
        shown.push_str(before);
        shown.push_str(quote);
        if is_reference(inside) {
            shown.push_str(inside);
        } else {
            shown.extend(inside.chars().map(|_| '*'));
        }
        let closing = after.len().min(1);
        shown.push_str(&after[..closing]);
        rest = &after[closing..];
    }
    shown + rest
}

/// Stars for the user and password of every URL or address (`u:p@host`).
fn without_userinfo(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')) {
        let user = part.find("://").map_or(0, |i| i + 3);
        match part.rfind('@').filter(|at| *at > user) {
            Some(at) if part[user..at].contains(':') || user > 0 => {
                shown.push_str(&part[..user]);
                shown.extend(part[user..at].chars().map(|_| '*'));
                shown.push_str(&part[at..]);
            }
            _ => shown.push_str(part),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        let file = SourceText { path: "weir.toml".into(), text: text.to_owned() };
        let mask = Mask::new(&file);
        let lines: Vec<String> = (0..text.lines().count()).map(|i| mask.line(i)).collect();
        assert_eq!(lines.join("\n"), shown);
    }

    #[test]
    fn files_that_parse() {
        check("listen = \"here\"", "listen = \"here\"");
        check("password = \"hunter2\" # x", "password = \"*******\" # x");
        check("token = 'env:TOKEN'", "token = 'env:TOKEN'");
        check("password = 12345", "password = *****");
        check("[sources.a]\npass = \"hunter2\"", "[sources.a]\npass = \"*******\"");
        check("[alerts.auth]\nwhen = \"a > 1\"", "[alerts.auth]\nwhen = \"a > 1\"");
        check("[sources.a.auth]\nx = \"hunter2\"", "[sources.a.auth]\nx = \"*******\"");
        check("a = '''\n.token = \"hunter2\"\n'''", "a = '''\n.token = \"*******\"\n'''");
        check("t = [\"http://u:hunter2@host/x\"]", "t = [\"http://*********@host/x\"]");
        check("t = [\"u:hunter2@host\"]", "t = [\"*********@host\"]");
        check(
            "[receivers.a]\npagerduty = \"hunter2\"\nslack = { channel = \"#x\", hook = \"hunter2\" }",
            "[receivers.a]\npagerduty = \"*******\"\nslack = { channel = \"#x\", hook = \"*******\" }",
        );
        check(
            "receivers = { a = { webhook = { url = \"https://h/hunter2\" } } }",
            "receivers = { a = { webhook = { url = \"*****************\" } } }",
        );
        check(
            "t = \"\"\"\nx\"\"\"\nsecret = \"\"\"\nhunter2\n\"\"\"",
            "t = \"\"\"\nx\"\"\"\nsecret = \"\"\"\n*******\n\"\"\"",
        );
    }

    #[test]
    fn files_that_do_not_parse() {
        check("listen = here", "listen = here");
        check("api_key hunter2", "api_key *******");
        check("api_key = \"hunter2", "api_key = ********");
        check("secret = hunter2", "secret = *******");
        check("token = \"env:X\" hunter2", "token = ******* *******");
        check("auth hunter2\nx = y", "auth *******\n* * *");
        check("token = \"x\nhunter2\"\ny = z", "token = **\n********\n* * *");
        check("auth = { bearer =\nhunter2\n}", "auth = * ****** *\n*******\n*");
        check(
            "auth = { bearer = \"a\nhunter2\" }\n[x]\ny",
            "auth = * ****** * **\n******** *\n[x]\ny",
        );
        check(
            "slack = { channel=\"#x\", token hunter2 }",
            "slack = * ************* ***** ******* *",
        );
        check("webhook = https://h/hunter2", "webhook = *****************");
        check("a = [{ password =\n hunter2 } ]", "a = ** ******** *\n ******* * *");
        check("[receivers.a]\nx hunter2\n[route]\ny z", "[receivers.a]\n* *******\n[route]\ny z");
        check("t = http://u:hunter2@host", "t = http://*********@host");
        check("key = \"\"\"\n[hunter2]\nhunter2 = x", "key = ***\n*********\n******* * *");
    }

    #[test]
    fn values_in_messages() {
        let text = "[receivers.a]\nhook = \"hunter2\"\nslack = { to = \"ops\" }".to_owned();
        let file = SourceText { path: "weir.toml".into(), text };
        let shown = Mask::new(&file).message("`hunter2` is not `ops`, see http://a:b@c");
        assert_eq!(shown, "`***` is not `ops`, see http://***@c");
    }
}
