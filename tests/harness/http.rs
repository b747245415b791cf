//! Blocking clients of HTTP and gRPC, which any thread may use, and an HTTP server of a test.

use std::sync::LazyLock;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use reqwest::Method;
use serde_json::Value;
use tokio::runtime::Runtime;

static HTTP: LazyLock<(Runtime, reqwest::Client)> = LazyLock::new(|| {
    // Only one of the threads that ask can be first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Runtime::new().unwrap();
    // A connection to a process that was killed is of no use to its successor.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy();
    (runtime, client.timeout(super::DEADLINE).build().unwrap())
});

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// Runs a future on the runtime of the tests.
fn block_on<F: Future>(future: F) -> F::Output {
    HTTP.0.block_on(future)
}

/// The client behind [`request`], for what that cannot say.
fn client() -> &'static reqwest::Client {
    &HTTP.1
}

/// One request. What keeps it from being answered has status 0.
pub(crate) fn request(method: &str, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let mut request = client().request(method.parse::<Method>().unwrap(), url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    block_on(async {
        let answer = async {
            let response = request.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Ok::<_, reqwest::Error>(Reply { status, headers, body: response.bytes().await?.into() })
        };
        answer.await.unwrap_or_else(|e| Reply {
            status: 0,
            headers: reqwest::header::HeaderMap::new(),
            body: format!("{e:?}").into_bytes(),
        })
    })
}

/// A gRPC client that keeps its connection, as those of SDKs do. Clones share it.
#[derive(Clone)]
pub(crate) struct Grpc {
    client: Client<HttpConnector, Full<bytes::Bytes>>,
    address: String,
}

impl Grpc {
    pub(crate) fn to(address: &str) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        let client = client.http2_only(true).retry_canceled_requests(false);
        Self { client: client.build_http(), address: address.to_owned() }
    }

    /// A unary call. Its status is that of HTTP which means the same; without an answer it is 0.
    pub(crate) fn call(&self, method: &str, message: &impl prost::Message) -> Reply {
        let mut body = vec![0];
        body.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        body.extend(message.encode_to_vec());
        let request = hyper::Request::post(format!("http://{}{method}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from(body))
            .unwrap();
        let answer = async {
            let response = self.client.request(request).await.map_err(|e| format!("{e:?}"))?;
            let mut headers = response.headers().clone();
            let body = response.into_body().collect().await.map_err(|e| format!("{e:?}"))?;
            headers.extend(body.trailers().cloned().unwrap_or_default());
            Ok::<_, String>(headers)
        };
        let answer = block_on(async { tokio::time::timeout(super::DEADLINE, answer).await });
        let headers = answer.unwrap_or_else(|_| Err("no answer".to_owned()));
        let none = reqwest::header::HeaderMap::new;
        let headers = match headers {
            Ok(headers) => headers,
            Err(why) => return Reply { status: 0, headers: none(), body: why.into_bytes() },
        };
        let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or_default());
        let status = match text("grpc-status") {
            Some("0") => 200,
            Some("8") => 429,
            Some("14") => 503,
            _ => 400,
        };
        let body = text("grpc-message").unwrap_or_default().as_bytes().to_vec();
        Reply { status, headers, body }
    }
}

/// Serves `app` on a port of its own until the test ends; gives the address.
pub(crate) fn serve(app: axum::Router) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app.layer(axum::extract::DefaultBodyLimit::disable())).await
        })
    });
    address
}
