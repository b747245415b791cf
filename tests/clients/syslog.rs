//! `logger` and rsyslog send over UDP, TCP and TLS.

use std::fs;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::assert_rows;
use crate::harness::{Program, Server, program, wait};

/// A source `syslog` with these lines, and its rows in the table `logs`.
fn server(lines: &str) -> Server {
    let text = format!(
        "[sources.syslog]\ntype = \"syslog\"\nlisten = \"127.0.0.1:0\"\n{lines}\n\
         [sinks.logs]\ntype = \"store\"\ninputs = [\"syslog.logs\"]\ntable = \"logs\"\n"
    );
    Server::start(&[("syslog", &text)], None)
}

fn logger(server: &Server, arguments: &[&str]) {
    let address = server.address("syslog");
    let port = address.split_once(':').unwrap().1;
    let status = Command::new(program("logger"))
        .args(["--server", "127.0.0.1", "--port", port])
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
}

#[test]
fn logger_over_udp() {
    check_logger("protocol = \"udp\"", "--udp", &[]);
}

#[test]
fn logger_over_tcp() {
    check_logger("protocol = \"tcp\"", "--tcp", &["--octet-count"]);
}

/// `framing`: a further way to frame messages.
fn check_logger(lines: &str, protocol: &str, framing: &[&str]) {
    let server = server(lines);
    let new = [
        protocol,
        "--rfc5424",
        "--tag",
        "shop",
        "--priority",
        "local3.warning",
        "--msgid",
        "ID47",
        "--sd-id",
        "zoo@32473",
        "--sd-param",
        "tiger=\"hungry\"",
        "--id=4711",
        "--",
        "cart is slow ✓",
    ];
    logger(&server, &new);
    let old = [
        protocol,
        "--rfc3164",
        "--tag",
        "cron",
        "--priority",
        "auth.err",
        "--id=12",
        "--",
        "an old line",
    ];
    logger(&server, &old);
    let framed = [&[protocol, "--rfc5424", "--tag", "framed"], framing, &["--", "third"]].concat();
    logger(&server, &framed);
    let rows = server
        .wait_sql("SELECT *, service.name AS service FROM logs ORDER BY body", |r| r.len() == 3);
    assert_rows(
        &rows,
        &json!([
            {
                "body": "an old line", "service": "cron", "process.pid": 12,
                "severity": "ERROR", "syslog.facility": "auth",
            },
            {
                "body": "cart is slow ✓", "service": "shop", "process.pid": 4711,
                "severity": "WARN", "severity_number": 13, "syslog.facility": "local3",
                "syslog.msgid": "ID47", "syslog.structured_data.zoo@32473.tiger": "hungry",
            },
            { "body": "third", "service": "framed", "severity_number": 10 },
        ]),
    );
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for row in &rows {
        assert_eq!(
            row["host.name"].as_str().unwrap().split('.').next(),
            host.trim().split('.').next()
        );
    }
    // Senders give their own time, to the microsecond in the new format and in local time in the
    // old one: all are of this minute.
    let fresh = "SELECT count(*) AS n FROM logs WHERE abs(CAST(timestamp AS BIGINT) - \
                 CAST(observed_timestamp AS BIGINT)) < 60000000000";
    assert_rows(&server.sql(fresh), &json!([{ "n": 3 }]));
    assert!(rows[1]["timestamp"].as_str().unwrap().ends_with("000Z"));
}

#[test]
fn rsyslog_over_udp() {
    check_rsyslog("protocol = \"udp\"", "", "protocol=\"udp\"");
}

#[test]
fn rsyslog_over_tcp() {
    check_rsyslog("protocol = \"tcp\"", "", "protocol=\"tcp\"");
}

#[test]
fn rsyslog_over_tcp_with_octet_counting() {
    check_rsyslog("protocol = \"tcp\"", "", "protocol=\"tcp\" tcp_framing=\"octet-counted\"");
}

#[test]
fn rsyslog_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ca = certificates(dir.path());
    let path = dir.path().display();
    check_rsyslog(
        &format!(
            "protocol = \"tls\"\ntls = {{ cert = \"{path}/cert.pem\", key = \"{path}/key.pem\" }}"
        ),
        &format!("global(defaultNetstreamDriverCAFile=\"{ca}\")"),
        "protocol=\"tcp\" streamDriver=\"gtls\" streamDriverMode=\"1\" \
         streamDriverAuthMode=\"x509/name\" streamDriverPermittedPeers=\"weir.test\"",
    );
}

/// Writes `cert.pem` and `key.pem` for `weir.test`; gives the file of the authority.
fn certificates(dir: &Path) -> String {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["weir.test".to_owned()]).unwrap();
    let cert = cert.signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    dir.join("ca.pem").display().to_string()
}

/// A local program logs to rsyslog, which forwards in the format of RFC 5424. It takes the space
/// after the old format's tag for part of the message; `mmrm1stspace` is its remedy.
fn check_rsyslog(lines: &str, global: &str, action: &str) {
    const MESSAGES: usize = 200;
    let mut server = server(lines);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let address = server.address("syslog");
    let port = address.split_once(':').unwrap().1;
    let config = format!(
        "{global}\n\
         module(load=\"imuxsock\" sysSock.use=\"off\")\n\
         module(load=\"mmrm1stspace\")\n\
         input(type=\"imuxsock\" socket=\"{path}/log\" rateLimit.interval=\"0\")\n\
         action(type=\"mmrm1stspace\")\n\
         action(type=\"omfwd\" target=\"127.0.0.1\" port=\"{port}\" {action} \
         template=\"RSYSLOG_SyslogProtocol23Format\")\n"
    );
    fs::write(dir.path().join("rsyslog.conf"), config).unwrap();
    let mut command = Command::new(program("rsyslogd"));
    command.args(["-n", "-f"]).arg(dir.path().join("rsyslog.conf"));
    command.arg("-i").arg(dir.path().join("pid"));
    let rsyslog = Program::start("rsyslogd", &mut command, &dir.path().join("out"));
    let socket = dir.path().join("log");
    wait("the socket of rsyslog", || socket.exists().then_some(()));
    let messages: String = (0..MESSAGES).map(|i| format!("message {i:03} ✓\n")).collect();
    fs::write(dir.path().join("messages"), messages).unwrap();
    let sent = Command::new(program("logger"))
        .arg("--socket")
        .arg(&socket)
        .args(["--tag", "shop", "--priority", "daemon.crit", "--id=99", "--file"])
        .arg(dir.path().join("messages"))
        .status();
    assert!(sent.unwrap().success());
    let all = "SELECT service.name, severity, syslog.facility, process.pid, \
               count(*) AS n, count(DISTINCT body) AS bodies, min(body) AS first, \
               max(body) AS last FROM logs WHERE service.name = 'shop' GROUP BY 1, 2, 3, 4";
    let rows = server.wait_sql(all, |r| r.iter().any(|r| r["n"] == MESSAGES));
    assert_rows(
        &rows,
        &json!([{
            "service.name": "shop", "severity": "ERROR", "syslog.facility": "daemon",
            "process.pid": 99, "n": MESSAGES, "bodies": MESSAGES,
            "first": "message 000 ✓", "last": "message 199 ✓",
        }]),
    );
    server.assert_runs();
    rsyslog.stop();
}
