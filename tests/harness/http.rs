//! A blocking HTTP client; any thread may use it.

use std::sync::LazyLock;

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
