//! What syslog senders get wrong.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use super::Bench;

#[test]
fn syslog_of_any_bytes() {
    let bench = Bench::start();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = bench.server.address("syslog_udp");
    let send = |message: &[u8]| {
        udp.send_to(message, &to).unwrap();
    };
    send(b"<13>1 2026-01-02T03:04:05Z host app - - - caf\xe9");
    send(b"");
    send(b"<999>1 what is this");
    send(b"<13>Feb 30 10:00:00 host app: no such day");
    send(&[0; 100]);
    send(b"<13>1 2026-01-02T03:04:05Z host good - - - udp is good");
    let mut tcp = TcpStream::connect(bench.server.address("syslog_tcp")).unwrap();
    // Between good lines one that is too long, and at the end one that breaks off.
    tcp.write_all(b"<13>1 2026-01-02T03:04:05Z host good - - - first\n").unwrap();
    writeln!(tcp, "<13>1 2026-01-02T03:04:05Z host long - - - {}", "y".repeat(100_000)).unwrap();
    tcp.write_all(b"<13>1 2026-01-02T03:04:05Z host good - - - second\n<13>1 - - cut").unwrap();
    drop(tcp);
    let good = "SELECT body FROM logs WHERE service.name = 'good' ORDER BY body";
    let rows = bench.server.wait_sql(good, |r| r.len() == 3);
    let bodies: Vec<&str> = rows.iter().map(|r| r["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["first", "second", "udp is good"]);
    // Not UTF-8: readable as far as it is, and the bytes beside it.
    let raw = "SELECT body, syslog.raw FROM logs WHERE syslog.raw IS NOT NULL";
    let raw = bench.server.wait_sql(raw, |r| r.len() == 1);
    assert_eq!(raw[0]["body"], "caf\u{fffd}");
    assert!(!raw[0]["syslog.raw"].as_str().unwrap().is_empty());
    // Too long: cut, and said so.
    let long = "SELECT length(body) AS n, syslog.truncated FROM logs WHERE service.name = 'long'";
    let long = bench.server.wait_sql(long, |r| r.len() == 1);
    assert_eq!(long[0]["syslog.truncated"], true);
    assert!(long[0]["n"].as_u64().unwrap() < 65_536, "{long:?}");
    // No such day: the time of receipt, and its text.
    let day = "SELECT syslog.timestamp, body FROM logs WHERE syslog.timestamp IS NOT NULL";
    let day = bench.server.wait_sql(day, |r| r.len() == 1);
    assert!(day[0]["syslog.timestamp"].as_str().unwrap().contains("Feb 30"), "{day:?}");
    bench.finish();
}
