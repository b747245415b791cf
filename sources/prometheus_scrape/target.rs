//! What to scrape, and how it is written down.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

/// Targets of one source.
pub(super) const TARGETS_MAX: usize = 10_000;

/// One target. Two with the same address and labels are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) url: String,
    /// Labels of its series: `job`, `instance` and whatever was given.
    pub(super) labels: BTreeMap<String, String>,
}

/// What targets have that do not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Defaults {
    pub(super) scheme: String,
    pub(super) path: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// One group of a target file.
#[derive(Deserialize)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Defaults {
    /// The target written as `text`: `host`, `host:port` or a URL.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn target(&self, text: &str) -> Result<Target, String> {
        let text = text.trim();
        let wrong = |why: &str| format!("`{text}` is not a target: {why}");
        let full = text.contains("://");
        let address = if full { text.to_owned() } else { format!("{}://{text}", self.scheme) };
        let mut url = Url::parse(&address).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("expected `http` or `https`"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // Not the text: it holds a password.
            return Err("a target holds a user name or password: use `auth`".to_owned());
        }
        if !full && (url.path() != "/" || url.query().is_some() || url.fragment().is_some()) {
            return Err(wrong("expected `host:port` or a whole URL"));
        }
        if url.path() == "/" && url.query().is_none() {
            match self.path.split_once('?') {
                Some((path, query)) => {
                    url.set_path(path);
                    url.set_query(Some(query));
                }
                None => url.set_path(&self.path),
            }
        }
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| wrong("no host"))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let mut labels = self.labels.clone();
        labels.entry("instance".to_owned()).or_insert(format!("{host}:{port}"));
        Ok(Target { url: url.into(), labels })
    }

    /// The targets of a file as of `file_sd_configs`, in JSON.
    ///
    /// # Errors
    /// Says what is wrong; then none of the file counts.
    pub(super) fn file(&self, text: &[u8]) -> Result<Vec<Target>, String> {
        let groups: Vec<Group> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let mut targets = Vec::new();
        for group in groups {
            let mut own = self.clone();
            for (name, value) in group.labels {
                match name.as_str() {
                    "__scheme__" => own.scheme = value,
                    "__metrics_path__" => own.path = value,
                    name if name.starts_with("__") || name.is_empty() => {}
                    _ => drop(own.labels.insert(name, value)),
                }
            }
            for target in &group.targets {
                targets.push(own.target(target)?);
            }
            if targets.len() > TARGETS_MAX {
                return Err(format!("more than {TARGETS_MAX} targets"));
            }
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn defaults() -> Defaults {
        Defaults {
            scheme: "http".into(),
            path: "/metrics".into(),
            labels: [("job".to_owned(), "j".to_owned())].into(),
        }
    }

    fn show(t: &Target) -> String {
        let labels: Vec<String> = t.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
        format!("{} {}", t.url, labels.join(" "))
    }

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let got = defaults().target(text).map_or_else(|e| e, |t| show(&t));
        assert_eq!(got, expect);
    }

    #[test]
    fn written() {
        check("h:9100", "http://h:9100/metrics instance=h:9100 job=j");
        check("h", "http://h/metrics instance=h:80 job=j");
        check("[::1]:9100", "http://[::1]:9100/metrics instance=[::1]:9100 job=j");
        check("https://h", "https://h/metrics instance=h:443 job=j");
        check("http://h:1/x?a=b", "http://h:1/x?a=b instance=h:1 job=j");
        check("h:1/x", "`h:1/x` is not a target: expected `host:port` or a whole URL");
        check("ftp://h", "`ftp://h` is not a target: expected `http` or `https`");
        check("h:99999", "`h:99999` is not a target: invalid port number");
        check("", "`` is not a target: empty host");
        check("http://u:sentinel@h", "a target holds a user name or password: use `auth`");
    }

    #[test]
    fn files() {
        let check = |text: &str, expect: &str| {
            let got = defaults().file(text.as_bytes()).map_or_else(
                |e| e,
                |targets| targets.iter().map(show).collect::<Vec<_>>().join("; "),
            );
            assert_eq!(got, expect);
        };
        check(
            r#"[{"targets": ["a:1", "b:2"], "labels": {"rack": "x", "job": "k", "__meta_y": "z"}},
                {"targets": ["c:3"], "labels": {"__scheme__": "https", "__metrics_path__": "/m?n=1"}}]"#,
            "http://a:1/metrics instance=a:1 job=k rack=x; \
             http://b:2/metrics instance=b:2 job=k rack=x; https://c:3/m?n=1 instance=c:3 job=j",
        );
        check("[]", "");
        check("[{", "EOF while parsing an object at line 1 column 2");
        check(
            r#"[{"targets": ["a:1/b"]}]"#,
            "`a:1/b` is not a target: expected `host:port` or a whole URL",
        );
    }
}
