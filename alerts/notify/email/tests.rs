#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use base64::Engine;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::super::Target;
use super::super::notification::samples::{notice, notification};
use super::super::testing::{certificate, secret, send, target};
use super::*;
use crate::transition::State;

/// How the server behaves.
#[derive(Clone, Default)]
struct Manner {
    starttls: bool,
    implicit: bool,
    auth: Option<(&'static str, &'static str)>,
    /// Answer to RCPT of an address that contains the text.
    refuse: Vec<(&'static str, &'static str)>,
    /// Answer to MAIL.
    mail: Option<&'static str>,
    /// Answer to the message.
    data: Option<&'static str>,
    /// Says nothing at this command.
    hang: Option<&'static str>,
}

/// What it was told: commands, and messages with recipients.
#[derive(Default)]
struct Seen {
    commands: Vec<String>,
    messages: Vec<(Vec<String>, String)>,
}

struct Smtp {
    port: u16,
    ca: String,
    seen: Arc<Mutex<Seen>>,
    dir: tempfile::TempDir,
}

impl Smtp {
    async fn start(manner: Manner) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (acceptor, ca) = certificate(&dir);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, seen, acceptor) = (manner.clone(), shared.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if manner.implicit {
                        if let Ok(tls) = acceptor.accept(stream).await {
                            session(BufReader::new(tls), &manner, &seen, true, true).await;
                        }
                        return;
                    }
                    let plain = BufReader::new(stream);
                    let Some(plain) = session(plain, &manner, &seen, false, true).await else {
                        return;
                    };
                    if let Ok(tls) = acceptor.accept(plain.into_inner()).await {
                        session(BufReader::new(tls), &manner, &seen, true, false).await;
                    }
                });
            }
        });
        Self { port, ca, seen, dir }
    }

    fn toml(&self, rest: &str) -> String {
        format!(
            "email = {{ from = \"Weir <weir@example.com>\", host = \"localhost\", port = {}, \
             ca = \"{}\", hello = \"weir.example\", timeout = \"2s\", {rest} }}",
            self.port, self.ca
        )
    }
}

/// One dialogue; the stream back if it is to be upgraded.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    manner: &Manner,
    seen: &Mutex<Seen>,
    encrypted: bool,
    greet: bool,
) -> Option<BufReader<S>> {
    if greet {
        stream.write_all(b"220 mail.example ESMTP\r\n").await.ok()?;
    }
    let mut recipients = Vec::new();
    let mut authenticated = manner.auth.is_none();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
        seen.lock().commands.push(if verb == "AUTH" { "AUTH".to_owned() } else { line.clone() });
        if manner.hang == Some(verb.as_str()) {
            std::future::pending::<()>().await;
        }
        let answer = match verb.as_str() {
            "EHLO" => {
                let mut lines = vec!["mail.example", "8BITMIME"];
                if manner.starttls && !encrypted {
                    lines.push("STARTTLS");
                }
                if manner.auth.is_some() {
                    lines.push("AUTH PLAIN LOGIN");
                }
                let last = lines.len() - 1;
                let text = lines.iter().enumerate();
                text.map(|(i, l)| format!("250{}{l}\r\n", if i == last { ' ' } else { '-' }))
                    .collect()
            }
            "STARTTLS" => {
                stream.write_all(b"220 go ahead\r\n").await.ok()?;
                stream.flush().await.ok()?;
                return Some(stream);
            }
            "AUTH" => {
                let (user, password) = manner.auth.unwrap();
                let expect = base64::engine::general_purpose::STANDARD
                    .encode(format!("\0{user}\0{password}"));
                authenticated = line.ends_with(&expect);
                match authenticated {
                    true => "235 welcome\r\n".to_owned(),
                    false => format!("535 5.7.8 bad credentials {line}\r\n"),
                }
            }
            "MAIL" if !authenticated => "530 5.7.0 authenticate first\r\n".to_owned(),
            "MAIL" => {
                recipients.clear();
                manner.mail.map_or("250 ok\r\n".to_owned(), |m| format!("{m}\r\n"))
            }
            "RCPT" => match manner.refuse.iter().find(|(a, _)| line.contains(a)) {
                Some((_, answer)) => format!("{answer}\r\n"),
                None => {
                    recipients.push(line["RCPT TO:<".len()..].trim_end_matches('>').to_owned());
                    "250 ok\r\n".to_owned()
                }
            },
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                stream.flush().await.ok()?;
                let mut message = String::new();
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.ok()?;
                    if line == ".\r\n" {
                        break;
                    }
                    message.push_str(&line);
                }
                seen.lock().messages.push((recipients.clone(), message));
                if manner.hang == Some("END") {
                    std::future::pending::<()>().await;
                }
                manner.data.map_or("250 queued\r\n".to_owned(), |m| format!("{m}\r\n"))
            }
            "QUIT" => "221 bye\r\n".to_owned(),
            _ => "500 what\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}

fn firing() -> Notification {
    notification(vec![notice(
        &[("alertname", "error_burst"), ("job", "<b>Köln</b>")],
        State::Firing,
        "12 errors\r\nBcc: evil@example.com",
    )])
}

const TWO: &str = "to = [\"Ops <ops@example.com>\", \"b@example.com\"]";

#[tokio::test]
async fn starttls_with_authentication() {
    let manner = Manner { starttls: true, auth: Some(("weir", "pa ss")), ..Manner::default() };
    let smtp = Smtp::start(manner).await;
    let password = secret(&smtp.dir, "password", "pa ss\n");
    let rest = format!("{TWO}, username = \"weir\", password = \"{password}\"");
    let target = target(&smtp.toml(&rest));
    send(&target, &firing()).await.unwrap();
    send(&target, &firing()).await.unwrap();
    let seen = smtp.seen.lock();
    assert_eq!(seen.commands[..4], ["EHLO weir.example", "STARTTLS", "EHLO weir.example", "AUTH"]);
    let (recipients, message) = &seen.messages[0];
    assert_eq!(recipients, &["ops@example.com", "b@example.com"]);
    assert_eq!(message, &seen.messages[1].1, "a repeated attempt is the same message");
    assert!(message.is_ascii());
    for expect in [
        "Message-ID: <0123456789abcdef@example.com>",
        "Auto-Submitted: auto-generated",
        "From: Weir <weir@example.com>",
        "Content-Type: multipart/alternative",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Type: text/html; charset=utf-8",
        "Subject: [FIRING:1] error_burst",
        "In-Reply-To: <weir-",
        "References: <weir-",
        "Date: Tue, 14 Nov 2023 22:13:30 +0000",
    ] {
        assert!(message.contains(expect), "{expect} in\n{message}");
    }
    let head = message.split("\r\n\r\n").next().unwrap();
    assert!(!head.contains("Bcc"), "{head}");
    let html = message.split("text/html").nth(1).unwrap();
    assert!(html.contains("&lt;b&=") || html.contains("&lt;b&gt;"), "HTML is escaped: {html}");
    assert!(!html.contains("<b>K"), "HTML is escaped: {html}");
}

#[tokio::test]
async fn implicit_tls_and_none() {
    let smtp = Smtp::start(Manner { implicit: true, ..Manner::default() }).await;
    send(&target(&smtp.toml(&format!("{TWO}, tls = \"implicit\""))), &firing()).await.unwrap();
    assert_eq!(smtp.seen.lock().messages.len(), 1);
    let smtp = Smtp::start(Manner::default()).await;
    send(&target(&smtp.toml(&format!("{TWO}, tls = \"none\""))), &firing()).await.unwrap();
    assert_eq!(smtp.seen.lock().messages.len(), 1);
}

#[tokio::test]
async fn failures_are_classed() {
    let tls = Manner { starttls: true, ..Manner::default() };
    let cases: Vec<(&str, Manner, bool, bool)> = vec![
        ("does not offer STARTTLS", Manner::default(), false, false),
        ("greylisted", Manner { mail: Some("451 4.7.1 greylisted"), ..tls.clone() }, true, false),
        (
            "no such sender",
            Manner { mail: Some("550 5.1.8 no such sender"), ..tls.clone() },
            false,
            false,
        ),
        ("spam", Manner { data: Some("554 5.7.1 spam"), ..tls.clone() }, false, false),
        ("later", Manner { data: Some("452 4.3.1 later"), ..tls.clone() }, true, false),
        ("did not finish", Manner { hang: Some("MAIL"), ..tls.clone() }, true, true),
        ("did not finish", Manner { hang: Some("END"), ..tls.clone() }, true, true),
        (
            "no such user",
            Manner { refuse: vec![("@example.com", "550 5.1.1 no such user")], ..tls.clone() },
            false,
            false,
        ),
        (
            "mailbox busy",
            Manner {
                refuse: vec![("ops@", "550 5.1.1 no such user"), ("b@", "450 4.2.1 mailbox busy")],
                ..tls.clone()
            },
            true,
            false,
        ),
    ];
    for (expect, manner, retry, doubt) in cases {
        let smtp = Smtp::start(manner).await;
        let error = send(&target(&smtp.toml(TWO)), &firing()).await.unwrap_err();
        assert!(error.message.contains(expect), "{expect}: {error}");
        assert_eq!((error.retry, error.doubt), (retry, doubt), "{expect}: {error}");
    }
}

#[tokio::test]
async fn one_refused_recipient_takes_nothing_from_the_other() {
    let refuse = vec![("ops@", "550 5.1.1 no such user")];
    let smtp = Smtp::start(Manner { starttls: true, refuse, ..Manner::default() }).await;
    send(&target(&smtp.toml(TWO)), &firing()).await.unwrap();
    assert_eq!(smtp.seen.lock().messages[0].0, ["b@example.com"]);
}

#[tokio::test]
async fn those_refused_for_now_are_tried_again_alone() {
    let refuse = vec![("b@", "450 4.2.1 greylisted")];
    let smtp = Smtp::start(Manner { starttls: true, refuse, ..Manner::default() }).await;
    let target = target(&smtp.toml(TWO));
    let error = send(&target, &firing()).await.unwrap_err();
    assert!(error.retry && error.doubt && error.message.contains("greylisted"), "{error}");
    assert_eq!(error.left, ["b@example.com"]);
    assert_eq!(smtp.seen.lock().messages[0].0, ["ops@example.com"]);
    smtp.seen.lock().commands.clear();
    let rest = target.clone().narrowed(&error.left);
    // As it comes out of the router's log.
    let rest: Target = serde_json::from_str(&serde_json::to_string(&rest).unwrap()).unwrap();
    send(&rest, &firing()).await.unwrap_err();
    let asked: Vec<String> = smtp.seen.lock().commands.clone();
    let asked: Vec<&String> = asked.iter().filter(|c| c.starts_with("RCPT")).collect();
    assert_eq!(asked, ["RCPT TO:<b@example.com>"]);
    assert_eq!(rest.whole(), target);
}

#[tokio::test]
async fn wrong_passwords_are_not_repeated_by_the_error() {
    let manner = Manner { starttls: true, auth: Some(("weir", "right")), ..Manner::default() };
    let smtp = Smtp::start(manner).await;
    let password = secret(&smtp.dir, "password", "s3cr3t-wrong");
    let rest = format!("{TWO}, username = \"weir\", password = \"{password}\"");
    let error = send(&target(&smtp.toml(&rest)), &firing()).await.unwrap_err();
    assert!(error.message.contains("bad credentials"), "{error}");
    assert!(!error.retry);
    assert!(!error.message.contains("s3cr3t"), "{error}");
    let coded = base64::engine::general_purpose::STANDARD.encode("\0weir\0s3cr3t-wrong");
    assert!(!error.message.contains(&coded), "{error}");
}

#[tokio::test]
async fn an_unknown_certificate_gets_nothing() {
    let smtp = Smtp::start(Manner { starttls: true, ..Manner::default() }).await;
    let toml = smtp.toml(TWO).replace(&format!("ca = \"{}\", ", smtp.ca), "");
    let error = send(&target(&toml), &firing()).await.unwrap_err();
    assert!(error.retry, "{error}");
    assert_eq!(smtp.seen.lock().messages.len(), 0);
    assert_eq!(smtp.seen.lock().commands.last().unwrap(), "STARTTLS");
}
