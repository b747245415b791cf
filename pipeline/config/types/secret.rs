//! References to secrets.

use std::borrow::Cow;
use std::fmt;
use std::io::Read as _;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};

/// A file with a secret is at most this long: keys and tokens are far shorter, and a path that
/// points to a log or a device by mistake must not fill memory.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What stands for a secret in messages and schemas.
pub(crate) const SECRET_EXPECTED: &str = "`env:NAME` or `file:PATH`";

/// A reference to a secret: `env:NAME` or `file:PATH`. The secret itself is read when it is used
/// and never kept in a plan, printed or logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

/// Why a secret could not be read. Never holds its value.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SecretError(pub String);

/// Where secrets come from.
trait Provider: Sync {
    /// What stands before the colon of a reference.
    fn scheme(&self) -> &'static str;
    /// Reads the secret `name` now; or why there is none.
    fn read(&self, name: &str) -> Result<String, String>;
}

/// All that references can name.
const PROVIDERS: [&dyn Provider; 2] = [&Variable, &SecretFile];

/// `env:NAME`: a variable of the process.
struct Variable;

impl Provider for Variable {
    fn scheme(&self) -> &'static str {
        "env"
    }

    fn read(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|e| match e {
            std::env::VarError::NotPresent => "the variable is not set".to_owned(),
            std::env::VarError::NotUnicode(_) => "the variable is not UTF-8".to_owned(),
        })
    }
}

/// `file:PATH`: the content of a file.
struct SecretFile;

impl Provider for SecretFile {
    fn scheme(&self) -> &'static str {
        "file"
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
        let mut text = String::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
        if text.len() as u64 > SECRET_BYTES_MAX {
            return Err("the file is larger than 64 KiB".to_owned());
        }
        Ok(text)
    }
}

/// Who provides a reference, and what it calls it.
fn provider(reference: &str) -> Option<(&'static dyn Provider, &str)> {
    let (scheme, name) = reference.split_once(':')?;
    PROVIDERS.into_iter().find(|p| p.scheme() == scheme).map(|p| (p, name))
}

impl Secret {
    /// A reference as written.
    ///
    /// # Errors
    /// If it is none; the text may be the secret itself, so the message does not hold it.
    pub fn parse(reference: &str) -> Result<Self, SecretError> {
        match provider(reference) {
            Some((_, name)) if !name.trim().is_empty() => Ok(Self(reference.to_owned())),
            _ => {
                Err(SecretError(format!("not a reference to a secret, expected {SECRET_EXPECTED}")))
            }
        }
    }

    /// The reference; safe to show.
    pub fn reference(&self) -> &str {
        &self.0
    }

    /// Reads the secret now. A newline at the end of a file is not part of it.
    ///
    /// # Errors
    /// If the variable is not set or the file cannot be read; names the reference.
    pub fn reveal(&self) -> Result<String, SecretError> {
        let failed = |why: &dyn fmt::Display| SecretError(format!("secret `{}`: {why}", self.0));
        let (provider, name) = provider(&self.0).ok_or_else(|| failed(&"nobody provides it"))?;
        let value = provider.read(name).map_err(|why| failed(&why))?;
        let trimmed = value.strip_suffix('\n').map_or(value.as_str(), |v| {
            // One line ending, as editors and `echo` leave it; other white space may be meant.
            v.strip_suffix('\r').unwrap_or(v)
        });
        if trimmed.is_empty() {
            return Err(failed(&"it is empty"));
        }
        Ok(trimmed.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "weir-secret", "pattern": "^(env|file):.+$" })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_references() {
        for bad in ["hunter2", "env:", "file: ", "vault:x", ""] {
            let error = Secret::parse(bad).unwrap_err().to_string();
            let reference = bad.starts_with("env:") || bad.starts_with("file:");
            assert!(bad.is_empty() || reference || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn files_are_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let secret = Secret::parse(&format!("file:{}", path.display())).unwrap();
        assert!(secret.reveal().unwrap_err().0.contains("token"));
        for (text, expect) in [("one\n", "one"), (" two \r\n", " two "), ("three\n\n", "three\n")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(secret.reveal().unwrap(), expect);
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(secret.reveal().unwrap_err().0.ends_with("it is empty"));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(secret.reveal().unwrap_err().0.ends_with("larger than 64 KiB"));
    }
}
