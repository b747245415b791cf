//! The least of an HTTP/1.1 client: it sends what the tests write and shows what came.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A response as it came.
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) bytes: Vec<u8>,
    pub(super) body: String,
    /// Whether the body ended as HTTP says it must.
    pub(super) whole: bool,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A response that is being read.
pub(super) struct Open {
    stream: TcpStream,
    seen: Vec<u8>,
}

pub(super) async fn stream(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Open {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    head.push_str("connection: close\r\n");
    if !headers.iter().any(|(n, _)| *n == "host") {
        head.push_str(&format!("host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses early may close while the body is still being sent.
    let _ = stream.write_all(body.as_bytes()).await;
    Open { stream, seen: Vec::new() }
}

pub(super) async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut open = stream(address, method, path, headers, body).await;
    while open.read_some().await > 0 {}
    parse(&open.seen)
}

impl Open {
    pub(super) async fn read_some(&mut self) -> usize {
        let mut buffer = [0; 8_192];
        let n = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..n]);
        n
    }

    /// Reads up to the end of the head.
    pub(super) async fn head(&mut self) {
        while !self.seen.windows(4).any(|w| w == b"\r\n\r\n") {
            assert!(self.read_some().await > 0, "no head came");
        }
    }

    /// The whole body.
    pub(super) async fn rest(mut self) -> String {
        while self.read_some().await > 0 {}
        parse(&self.seen).body
    }
}

fn parse(seen: &[u8]) -> Response {
    let end = seen.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = std::str::from_utf8(&seen[..end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let rest = &seen[end + 4..];
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
    let (bytes, whole) = if chunked { dechunk(rest) } else { (rest.to_vec(), true) };
    let body = String::from_utf8_lossy(&bytes).into_owned();
    Response { status, headers, bytes, body, whole }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else { return (out, false) };
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return (out, true);
        }
        rest = &rest[line + 2..];
        if rest.len() < size + 2 {
            return (out, false);
        }
        out.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}
