//! What scraped targets get wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::harness::Server;

#[test]
fn scraped_page_with_wrong_lines() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in target.incoming().flatten() {
            answer(stream);
        }
    });
    let pipeline = format!(
        r#"
        [sources.page]
        type = "prometheus_scrape"
        targets = ["{address}"]
        interval = "300ms"
        [sinks.metrics]
        type = "store"
        inputs = ["page.metrics"]
        table = "metrics"
        "#
    );
    let mut server = Server::start(&[("page", &pipeline)], None);
    server.wait_sql("SELECT value FROM metrics.up WHERE value = 1", |r| r.len() >= 2);
    let rows = server.sql(
        "SELECT DISTINCT metric.name AS name, value, a FROM metrics \
         WHERE metric.name NOT LIKE 'scrape_%' AND metric.name <> 'up' ORDER BY 1",
    );
    assert_eq!(
        rows,
        [
            json!({ "name": "good_after", "value": 2.0, "a": "x" }),
            json!({ "name": "good_before", "value": 1.0, "a": null }),
            json!({ "name": "none", "value": "NaN", "a": null }),
        ]
    );
    // Each wrong line is counted.
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("rejected"), "{metrics}");
    server.assert_runs();
    server.stop();
}

fn answer(mut stream: TcpStream) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let page: &[u8] = b"good_before 1\nbroken{a=\"x\" 1\nword\nbroken two\n{} 5\n\
        broken{a=\"\xff\xfe\"} 3\nnone NaN\ngood_after{a=\"x\"} 2\n";
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        page.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), page].concat());
}
