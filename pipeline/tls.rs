//! TLS for listeners and clients: rustls with the ring provider, certificates from PEM files that
//! are read again when they change.

#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::config::{TlsClient, TlsServer};

/// Certificate files are looked at this often at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Application protocols of HTTP listeners, best first (RFC 7301).
pub const ALPN_HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Why TLS could not be set up. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("TLS file `{}` cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no certificate, or no private key.
    #[error("TLS file `{}` holds no {what} in PEM form: {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate`, `private key`.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// The content of a file is of no use.
    #[error("TLS file `{}` cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        why: String,
    },
    /// Options that do not go together.
    #[error("TLS options: {0}")]
    Options(String),
}

/// The TLS side of a listener. It follows changes of its files: a broken new file keeps the old
/// certificate and is logged.
#[derive(Debug)]
pub struct ServerTls {
    options: TlsServer,
    alpn: &'static [&'static [u8]],
    config: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    looked: Instant,
    stamps: Vec<Option<(SystemTime, u64)>>,
}

impl ServerTls {
    /// Reads the files of `options`. `alpn`: [`ALPN_HTTP`], or empty for protocols without.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub fn load(options: &TlsServer, alpn: &'static [&'static [u8]]) -> Result<Self, TlsError> {
        // Before reading: a file that changes meanwhile is read again.
        let stamps = stamps(options);
        let config = server_config(options, alpn)?;
        Ok(Self {
            options: options.clone(),
            alpn,
            config: ArcSwap::from_pointee(config),
            seen: Mutex::new(Seen { looked: Instant::now(), stamps }),
        })
    }

    /// What it was made from.
    pub fn options(&self) -> &TlsServer {
        &self.options
    }

    /// The configuration for the next handshake, of the files as they are now.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut seen = self.seen.lock();
        if seen.looked.elapsed() >= LOOK_EVERY {
            seen.looked = Instant::now();
            self.refresh(&mut seen);
        }
        self.config.load_full()
    }

    fn refresh(&self, seen: &mut Seen) {
        let now = stamps(&self.options);
        if now == seen.stamps {
            return;
        }
        seen.stamps = now;
        match server_config(&self.options, self.alpn) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!(cert = %self.options.cert.display(), "certificate read again");
            }
            Err(e) => {
                tracing::error!(error = %e, "changed certificate is not usable, keeping the old");
            }
        }
    }
}

fn stamps(options: &TlsServer) -> Vec<Option<(SystemTime, u64)>> {
    let files = [Some(&options.cert), Some(&options.key), options.client_ca.as_ref()];
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    files.into_iter().flatten().map(stamp).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server configuration from the files of `options`.
///
/// # Errors
/// If a file cannot be read or used.
pub fn server_config(options: &TlsServer, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&options.cert)?;
    let key = private_key(&options.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Options(e.to_string()))?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots(ca)?.into(), provider())
                    .build()
                    .map_err(|e| unusable(ca, &e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|e| unusable(&options.cert, &e))?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// A client configuration from `options`, without application protocols: HTTP clients set their
/// own.
///
/// # Errors
/// If a file cannot be read or used, or only one of `cert` and `key` is given.
pub fn client_config(options: &TlsClient) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Options(e.to_string()))?;
    let name = options.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone())
            .map_err(|_| TlsError::Options(format!("`{name}` is not a server name")))
    });
    let verifier = verify::verifier(
        match &options.ca {
            Some(ca) => roots(ca)?,
            None => system_roots(),
        },
        name.transpose()?,
        options.insecure_skip_verify,
        &provider(),
    )
    .map_err(|e| match &options.ca {
        Some(ca) => unusable(ca, &e),
        None => TlsError::Options(format!("no authority of the system can be used: {e}")),
    })?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match (&options.cert, &options.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|e| unusable(cert, &e)),
        _ => Err(TlsError::Options("`cert` and `key` need each other".to_owned())),
    }
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), why: error.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn bad_pem(path: &Path, what: &'static str, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::NoItemsFound => "nothing of the kind is in it".to_owned(),
        other => other.to_string(),
    };
    TlsError::Pem { path: path.to_owned(), what, why }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| bad_pem(path, "certificate", &e))?;
    if chain.is_empty() {
        return Err(bad_pem(path, "certificate", &pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| bad_pem(path, "private key", &e))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| unusable(path, &e))?;
    }
    Ok(roots)
}

/// The authorities that the system trusts. Single bad ones are left out, as everywhere.
fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(errors = ?found.errors, "the system has no trusted authorities");
    }
    roots
}
