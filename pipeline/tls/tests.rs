#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Writes a self-signed certificate for `name` and gives (cert, key).
fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

/// One handshake in memory, and a byte each way.
async fn talk(server: Arc<ServerConfig>, client: ClientConfig, name: &str) -> Result<(), String> {
    let (a, b) = tokio::io::duplex(1 << 16);
    let server = async {
        let mut s = tokio_rustls::TlsAcceptor::from(server).accept(a).await?;
        let byte = s.read_u8().await?;
        s.write_u8(byte + 1).await?;
        s.flush().await
    };
    let client = async {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut s = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, b).await?;
        s.write_u8(1).await?;
        s.read_u8().await
    };
    let (_, answer) = tokio::join!(server, client);
    answer.map(|_| ()).map_err(|e| e.to_string())
}

#[tokio::test]
async fn server_and_client() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path(), "weir.test");
    let (client_cert, client_key) = certificate(dir.path(), "client.test");
    let open = TlsServer { cert: cert.clone(), key: key.clone(), client_ca: None };
    let closed = TlsServer { client_ca: Some(client_cert.clone()), ..open.clone() };
    let trusting = TlsClient { ca: Some(cert.clone()), ..TlsClient::default() };
    let known =
        TlsClient { cert: Some(client_cert), key: Some(client_key.clone()), ..trusting.clone() };
    let check = async |server: &TlsServer, client: &TlsClient, name, expect: Result<(), &str>| {
        let server = Arc::new(server_config(server, ALPN_HTTP).unwrap());
        match (talk(server, client_config(client).unwrap(), name).await, expect) {
            (Ok(()), Ok(())) => {}
            (Err(e), Err(part)) if e.contains(part) => {}
            (got, expect) => panic!("{got:?}, expected {expect:?}"),
        }
    };
    check(&open, &trusting, "weir.test", Ok(())).await;
    check(&open, &trusting, "other.test", Err("certificate")).await;
    let renamed = TlsClient { server_name: Some("weir.test".into()), ..trusting.clone() };
    check(&open, &renamed, "other.test", Ok(())).await;
    check(&open, &TlsClient::default(), "weir.test", Err("certificate")).await;
    let skip = TlsClient { insecure_skip_verify: true, ..TlsClient::default() };
    check(&open, &skip, "any.test", Ok(())).await;
    check(&closed, &known, "weir.test", Ok(())).await;
    check(&closed, &trusting, "weir.test", Err("ertificate")).await;
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path(), "weir.test");
    let other = certificate(dir.path(), "other.test").1;
    let absent = dir.path().join("absent.pem");
    let check = |cert: &Path, key: &Path, expect: &str| {
        let options = TlsServer { cert: cert.to_owned(), key: key.to_owned(), client_ca: None };
        let error = server_config(&options, &[]).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&absent, &key, "absent.pem` cannot be read");
    check(&key, &key, "weir.test.key` holds no certificate");
    check(&cert, &cert, "weir.test.pem` holds no private key");
    check(&cert, &other, "weir.test.pem` cannot be used");
    let half = TlsClient { cert: Some(cert), ..TlsClient::default() };
    assert!(client_config(&half).unwrap_err().to_string().contains("need each other"));
}

#[test]
fn changed_files_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path(), "weir.test");
    let tls = ServerTls::load(
        &TlsServer { cert: cert.clone(), key: key.clone(), client_ca: None },
        ALPN_HTTP,
    )
    .unwrap();
    let look = || {
        tls.refresh(&mut tls.seen.lock());
        tls.config.load_full()
    };
    let first = look();
    assert!(Arc::ptr_eq(&first, &look()));
    fs::write(&cert, "broken").unwrap();
    assert!(Arc::ptr_eq(&first, &look()), "a broken file keeps the old certificate");
    certificate(dir.path(), "weir.test");
    assert!(!Arc::ptr_eq(&first, &look()));
}
