//! What people are told by: servers on loopback that take notices and remember them. They stay
//! while Weir is killed and started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// One notice as it came.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    /// `email`, or the path of the request.
    pub(crate) way: String,
    /// Head of the request, or the recipients.
    pub(crate) head: String,
    /// The message, or the body as JSON.
    pub(crate) text: String,
}

impl Notice {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

/// All of them, and what came.
#[derive(Clone)]
pub(crate) struct Receivers {
    notices: Arc<Mutex<Vec<Notice>>>,
    /// Answered 503 instead of taken, by path.
    refuse: Arc<Mutex<Option<&'static str>>>,
    smtp: u16,
    http: u16,
}

pub(crate) const EMAIL: &str = "email";
pub(crate) const SLACK: &str = "/api/chat.postMessage";
pub(crate) const PAGERDUTY: &str = "/v2/enqueue";
pub(crate) const WEBHOOK: &str = "/hook";
pub(crate) const WAYS: [&str; 4] = [EMAIL, SLACK, PAGERDUTY, WEBHOOK];

impl Receivers {
    pub(crate) fn start() -> Self {
        let (smtp, http) = (listener(), listener());
        let receivers = Self {
            notices: Arc::default(),
            refuse: Arc::default(),
            smtp: smtp.local_addr().unwrap().port(),
            http: http.local_addr().unwrap().port(),
        };
        receivers.serve(smtp, Self::mail);
        receivers.serve(http, Self::web);
        receivers
    }

    /// A server file that routes what has `severity = "page"` to one receiver of four kinds.
    /// `SLACK_TOKEN` and `PAGERDUTY_KEY` are to be set.
    pub(crate) fn weir_toml(&self) -> String {
        let http = format!("http://127.0.0.1:{}", self.http);
        format!(
            r##"
[receivers.oncall]
email = {{ to = ["ops@example.com"], from = "weir@example.com", host = "127.0.0.1", port = {}, tls = "none" }}
slack = {{ channel = "#ops", token = "env:SLACK_TOKEN", api_url = "{http}/api" }}
pagerduty = {{ routing_key = "env:PAGERDUTY_KEY", url = "{http}{PAGERDUTY}" }}
webhook = {{ url = "{http}{WEBHOOK}" }}

[route]
receiver = "console"
group_by = ["alertname", "service"]
group_wait = "200ms"
group_interval = "400ms"
repeat_interval = "4h"

[[route.routes]]
match = ['severity = "page"']
receiver = "oncall"
"##,
            self.smtp
        )
    }

    /// What came by one way and speaks of `service`.
    pub(crate) fn about(&self, way: &str, service: &str) -> Vec<Notice> {
        let notices = self.notices.lock().unwrap();
        let of = |n: &&Notice| n.way == way && n.text.contains(service);
        notices.iter().filter(of).cloned().collect()
    }

    /// How many came.
    pub(crate) fn count(&self) -> usize {
        self.notices.lock().unwrap().len()
    }

    /// From now on requests to this path are answered 503; `None`: all are taken.
    pub(crate) fn refuse(&self, path: Option<&'static str>) {
        *self.refuse.lock().unwrap() = path;
    }

    fn serve(&self, listener: TcpListener, handle: fn(&Self, TcpStream) -> std::io::Result<()>) {
        let receivers = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let receivers = receivers.clone();
                // A peer that was killed in the middle is no fault of the receiver.
                std::thread::spawn(move || handle(&receivers, stream?));
            }
        });
    }

    fn take(&self, way: &str, head: String, text: String) {
        self.notices.lock().unwrap().push(Notice { way: way.to_owned(), head, text });
    }

    /// A dialogue of SMTP.
    fn mail(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let say = |stream: &mut BufReader<TcpStream>, text: &str| {
            stream.get_mut().write_all(text.as_bytes())
        };
        say(&mut stream, "220 mail.example ESMTP\r\n")?;
        let mut recipients = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let verb = line.split([' ', ':', '\r']).next().unwrap_or_default().to_uppercase();
            let answer = match verb.as_str() {
                "EHLO" => "250-mail.example\r\n250 8BITMIME\r\n",
                "MAIL" | "RSET" => {
                    recipients.clear();
                    "250 ok\r\n"
                }
                "RCPT" => {
                    recipients.push_str(&line);
                    "250 ok\r\n"
                }
                "DATA" => {
                    say(&mut stream, "354 go on\r\n")?;
                    let mut message = String::new();
                    while !message.ends_with("\r\n.\r\n") {
                        if stream.read_line(&mut message)? == 0 {
                            return Ok(());
                        }
                    }
                    // Quoted-printable lines may break within a word.
                    self.take(EMAIL, recipients.clone(), message.replace("=\r\n", ""));
                    "250 queued\r\n"
                }
                "NOOP" => "250 ok\r\n",
                "QUIT" => return say(&mut stream, "221 bye\r\n"),
                _ => "500 what\r\n",
            };
            say(&mut stream, answer)?;
        }
    }

    /// One request of HTTP.
    fn web(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.to_lowercase().lines().find_map(|l| {
            l.strip_prefix("content-length:").map(|n| n.trim().parse::<usize>().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, answer) = match *self.refuse.lock().unwrap() == Some(path.as_str()) {
            true => ("503 Later", String::new()),
            false => {
                self.take(&path, head, String::from_utf8_lossy(&body).into_owned());
                answer(&path)
            }
        };
        let length = answer.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n"
        );
        stream.get_mut().write_all((head + &answer).as_bytes())
    }
}

fn answer(path: &str) -> (&'static str, String) {
    let (status, body) = match path {
        SLACK => {
            ("200 OK", r#"{"ok":true,"channel":"C1","ts":"1.2","message":{"ts":"1.2","text":"x"}}"#)
        }
        PAGERDUTY => {
            ("202 Accepted", r#"{"status":"success","message":"Event processed","dedup_key":"x"}"#)
        }
        WEBHOOK => ("200 OK", ""),
        _ => ("404 Not Found", ""),
    };
    (status, body.to_owned())
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}
