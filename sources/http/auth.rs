//! Who may send: bearer tokens and user names with passwords.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, header};
use weir_pipeline::config::ServerAuth;

/// Why a request was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unauthorized {
    /// It says nothing of who sends it.
    #[error("an `Authorization` header is needed")]
    Missing,
    /// No token or password fits.
    #[error("the credentials in the `Authorization` header are not known")]
    Unknown,
    /// What they should be compared with cannot be read: nobody is let in.
    #[error("the credentials of this server cannot be read; see its log")]
    Unreadable,
}

impl Unauthorized {
    /// The `WWW-Authenticate` header of the answer (RFC 9110, section 11.6.1).
    pub(crate) fn challenge(auth: &ServerAuth) -> &'static str {
        if auth.bearer.is_empty() { "Basic realm=\"weir\"" } else { "Bearer realm=\"weir\"" }
    }
}

/// Lets a request in if one of the credentials of `auth` fits; empty `auth` lets everyone in.
/// Secrets are read anew each time, so changed ones count at once.
///
/// # Errors
/// Says why not, without any secret.
pub(crate) fn authorize(auth: &ServerAuth, headers: &HeaderMap) -> Result<(), Unauthorized> {
    if auth.bearer.is_empty() && auth.basic.is_empty() {
        return Ok(());
    }
    let given = headers.get(header::AUTHORIZATION).ok_or(Unauthorized::Missing)?;
    let given = given.to_str().map_err(|_| Unauthorized::Unknown)?;
    let (scheme, credentials) = given.split_once(' ').ok_or(Unauthorized::Unknown)?;
    let credentials = credentials.trim();
    let mut unreadable = false;
    let mut fits = false;
    let mut compare = |secret: Result<String, weir_pipeline::config::SecretError>, given: &[u8]| {
        match secret {
            // An empty secret is a mistake, not a way in.
            Ok(secret) if secret.is_empty() => unreadable = true,
            Ok(secret) => fits |= same(secret.as_bytes(), given),
            Err(e) => {
                unreadable = true;
                tracing::error!(error = %e, "a secret of `auth` cannot be read");
            }
        }
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        auth.bearer.iter().for_each(|token| compare(token.reveal(), credentials.as_bytes()));
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = BASE64.decode(credentials).map_err(|_| Unauthorized::Unknown)?;
        let colon = pair.iter().position(|b| *b == b':').ok_or(Unauthorized::Unknown)?;
        let (user, password) = (&pair[..colon], &pair[colon + 1..]);
        for basic in auth.basic.iter().filter(|b| same(b.username.as_bytes(), user)) {
            compare(basic.password.reveal(), password);
        }
    }
    match (fits, unreadable) {
        (true, _) => Ok(()),
        (false, true) => Err(Unauthorized::Unreadable),
        (false, false) => Err(Unauthorized::Unknown),
    }
}

/// Compares without telling by the time it takes where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}
