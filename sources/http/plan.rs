//! What sources that listen check when they are planned.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weir_pipeline::config::{Scope, Section, ServerAuth, Spanned, TlsServer};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};

/// The address in `value`: `127.0.0.1:4318`, `[::1]:4318`, `localhost:4318`.
///
/// # Errors
/// Says what an address looks like.
pub(crate) fn address(
    section: &Section,
    key: &str,
    value: &Spanned<String>,
) -> Result<SocketAddr, Diagnostics> {
    let text = value.value.trim();
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let local = local.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    local.or_else(|| text.parse().ok()).ok_or_else(|| {
        let message = format!("`{key}` is not an address: `{text}`");
        let wrong = Diagnostic::error("W015", message).at(&section.span(value));
        let wrong = wrong.label("expected an IP address and a port");
        let hint = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            Ok(port) => format!("write `{key} = \"127.0.0.1:{port}\"`"),
            Err(_) => format!("for example `{key} = \"127.0.0.1:4318\"`"),
        };
        wrong.hint(hint).into()
    })
}

/// Refuses an address that others can reach if what they send can be read or sent by anyone,
/// unless `insecure` says that this is meant; then it is a warning.
///
/// # Errors
/// Names what is missing.
pub(crate) fn exposed(
    section: &Section,
    scope: &Scope,
    key: &str,
    (value, address): (&Spanned<String>, SocketAddr),
    (tls, auth): (bool, &ServerAuth),
    insecure: bool,
) -> Result<(), Diagnostics> {
    let open = auth.bearer.is_empty() && auth.basic.is_empty();
    if address.ip().to_canonical().is_loopback() || tls && !open {
        return Ok(());
    }
    let missing = match (tls, open) {
        (false, true) => "`tls` and `auth`",
        (false, false) => "`tls`",
        _ => "`auth`",
    };
    let message = format!("`{key}` can be reached from outside, without {missing}");
    let span = section.span(value);
    if insecure {
        scope.warn(Diagnostic::warning("W061", message).at(&span).label("`insecure` allows it"));
        return Ok(());
    }
    Err(Diagnostic::error("W060", message)
        .at(&span)
        .label("not a loopback address")
        .hint(format!("set {missing}, or `insecure = true` if the network keeps others out"))
        .into())
}

/// `tls` with its paths relative to the folder of the file.
pub(crate) fn resolve_tls(scope: &Scope, tls: TlsServer) -> TlsServer {
    TlsServer {
        cert: scope.base.join(tls.cert),
        key: scope.base.join(tls.key),
        client_ca: tls.client_ca.map(|path| scope.base.join(path)),
    }
}
