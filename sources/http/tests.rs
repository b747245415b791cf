#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::convert::Infallible;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use weir_pipeline::admission::Gate;
use weir_pipeline::config::{Basic, Secret, ServerAuth};

use super::*;

#[test]
fn who_may_send() {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Secret::parse(&format!("file:{}", path.display())).unwrap()
    };
    let auth = ServerAuth {
        bearer: vec![secret("t1", "one"), secret("t2", "two")],
        basic: vec![Basic { username: "ann".into(), password: secret("p", "a:b") }],
    };
    let check = |auth: &ServerAuth, header: Option<&str>, expect: Result<(), Unauthorized>| {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("authorization", HeaderValue::from_str(header).unwrap());
        }
        assert_eq!(authorize(auth, &headers), expect, "{header:?}");
    };
    let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
    check(&ServerAuth::default(), None, Ok(()));
    check(&auth, None, Err(Unauthorized::Missing));
    check(&auth, Some("Bearer one"), Ok(()));
    check(&auth, Some("bearer two"), Ok(()));
    check(&auth, Some("Bearer on"), Err(Unauthorized::Unknown));
    check(&auth, Some("Bearer"), Err(Unauthorized::Unknown));
    check(&auth, Some("Digest one"), Err(Unauthorized::Unknown));
    check(&auth, Some(&basic("ann:a:b")), Ok(()));
    check(&auth, Some(&basic("ann:")), Err(Unauthorized::Unknown));
    check(&auth, Some(&basic("bob:a:b")), Err(Unauthorized::Unknown));
    check(&auth, Some("Basic %"), Err(Unauthorized::Unknown));
    // What cannot be read, or is empty, lets nobody in.
    let lost = ServerAuth { bearer: vec![Secret::parse("file:/absent").unwrap()], basic: vec![] };
    check(&lost, Some("Bearer one"), Err(Unauthorized::Unreadable));
    let empty = ServerAuth { bearer: vec![secret("e", "")], basic: vec![] };
    check(&empty, Some("Bearer "), Err(Unauthorized::Unreadable));
}

fn chunks(sizes: &[usize]) -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + use<> {
    let frames: Vec<_> =
        sizes.iter().map(|n| Ok(Frame::data(Bytes::from(vec![b'x'; *n])))).collect();
    StreamBody::new(futures::stream::iter(frames))
}

#[tokio::test]
async fn bodies() {
    let gate = Gate::default();
    let check = async |sizes: &[usize], limit, expect: Result<usize, BodyError>| {
        let got = read_body(chunks(sizes), limit, &gate).await.map(|b| b.bytes.len());
        assert_eq!(got, expect, "{sizes:?}");
    };
    check(&[], 0, Ok(0)).await;
    check(&[5], 5, Ok(5)).await;
    check(&[5, 0, 1], 6, Ok(6)).await;
    check(&[5, 1], 5, Err(BodyError::TooLarge(5))).await;
    let whole = Full::new(Bytes::from_static(b"hello"));
    assert_eq!(&read_body(whole, 5, &gate).await.unwrap().bytes[..], b"hello");
    let broken = StreamBody::new(futures::stream::iter([
        Ok(Frame::data(Bytes::from_static(b"x"))),
        Err(std::io::Error::other("gone")),
    ]));
    let error = read_body(broken, 9, &gate).await.unwrap_err();
    assert_eq!(error, BodyError::Broken("gone".into()));
}

#[tokio::test]
async fn bodies_share_memory() {
    let gate = Gate::default();
    let part = 100 << 20;
    let first = read_body(chunks(&[part]), part, &gate).await.unwrap();
    let _second = read_body(chunks(&[part]), part, &gate).await.unwrap();
    assert_eq!(read_body(chunks(&[part]), part, &gate).await.unwrap_err(), BodyError::Busy);
    drop(first);
    assert!(read_body(chunks(&[part]), part, &gate).await.is_ok());
}

#[tokio::test]
async fn slow_bodies_are_cut_off() {
    let (short, long) = (Duration::from_millis(1), Duration::from_secs(3600));
    let gate = Gate::default();
    let never = || StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
    for times in [(short, long), (long, short)] {
        let error = body::read_within(never(), 9, &gate, times).await.unwrap_err();
        assert_eq!(error, BodyError::Timeout);
    }
}
