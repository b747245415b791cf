//! Servers on loopback that answer as a test says, and what they were sent.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use weir_pipeline::config::Section;

use super::{Channel, Notification, Notifiers, SendError, Target, Transport};
use crate::router::RouterConfig;

/// The provider that `main` installs.
pub(crate) fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A secret in a file, as `file:PATH`.
pub(crate) fn secret(dir: &tempfile::TempDir, name: &str, value: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, value).unwrap();
    format!("file:{}", path.display())
}

/// The one target of a receiver written as TOML.
pub(crate) fn target(toml: &str) -> Target {
    let section = Section::parse_for_tests("oncall", toml);
    let config = RouterConfig::plan(&[section], None).map_err(|e| e.to_string()).unwrap();
    // As it comes out of the router's log.
    let json = serde_json::to_string(&config).unwrap();
    let config: RouterConfig = serde_json::from_str(&json).unwrap();
    let target = config.receivers["oncall"][0].clone();
    assert!(!matches!(target.channel, Channel::Console));
    target
}

/// One attempt.
pub(crate) async fn send(target: &Target, n: &Notification) -> Result<(), SendError> {
    provider();
    Notifiers::new().unwrap().send(target, n).await
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

/// An answer: status, headers, body. Status 0 closes without one, 1 never answers.
pub(crate) type Answer = (u16, &'static str, String);

/// An HTTP server.
pub(crate) struct Http {
    pub(crate) url: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A certificate for `localhost` that nobody else knows: the server's side, and a file with it.
pub(crate) fn certificate(dir: &tempfile::TempDir) -> (TlsAcceptor, String) {
    provider();
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, key.cert.pem()).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), ca.display().to_string())
}

impl Http {
    /// Answers requests in this order, one per connection.
    pub(crate) async fn start(answers: Vec<Answer>) -> Self {
        Self::serve(answers, None).await
    }

    /// As [`Http::start`], by https. A connection that does not get past the handshake counts.
    pub(crate) async fn start_tls(answers: Vec<Answer>, tls: TlsAcceptor) -> Self {
        Self::serve(answers, Some(tls)).await
    }

    async fn serve(answers: Vec<Answer>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            for (status, headers, body) in answers {
                let Ok((stream, _)) = listener.accept().await else { return };
                let stream: Box<dyn Stream> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                let mut stream = BufReader::new(stream);
                let request = read(&mut stream).await;
                seen.lock().push(request);
                match status {
                    0 => continue,
                    1 => {
                        tokio::spawn(async move {
                            let _open = stream;
                            std::future::pending::<()>().await;
                        });
                        continue;
                    }
                    _ => {}
                }
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        Self { url, requests }
    }
}

async fn read(stream: &mut BufReader<Box<dyn Stream>>) -> Request {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    Request { path, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
}
