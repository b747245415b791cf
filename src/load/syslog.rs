//! Syslog over TCP: lines, many to a write.

use std::fmt::Write;

use bytes::Bytes;

use super::Feed;
use super::clock::Clock;
use crate::cli::{SyslogFormat, SyslogLoad};

/// The lines of one connection.
pub(super) struct Lines {
    format: SyslogFormat,
    run: String,
    rows: usize,
    bytes: usize,
    next: u64,
    clock: Clock,
}

/// What the connection `nth` sends.
pub(super) fn feed(args: &SyslogLoad, run: &str, nth: usize, clock: &Clock) -> Lines {
    let (format, run, rows, bytes) = (args.format, run.to_owned(), args.rows.max(1), args.bytes);
    Lines { format, run, rows, bytes, next: (nth as u64) << 40, clock: clock.clone() }
}

impl Feed for Lines {
    fn next(&mut self) -> (Bytes, u64) {
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.clock.rows(self.rows as u64)))
            .unwrap_or_default();
        let head = match self.format {
            SyslogFormat::Rfc5424 => format!("<134>1 {time:.3} web-1 {} 4711 ID47 - ", self.run),
            SyslogFormat::Rfc3164 => {
                format!("<134>{} web-1 {}[4711]: ", time.strftime("%b %e %H:%M:%S"), self.run)
            }
        };
        let mut text = String::with_capacity(self.rows * (head.len() + self.bytes + 1));
        for _ in 0..self.rows {
            self.next += 1;
            let start = text.len();
            let _ = write!(text, "{head}GET /cart/{} 200 in {} ms", self.next, self.next % 977);
            while text.len() < start + head.len() + self.bytes {
                text.push_str(" upstream=10.0.0.7:8080 cache=miss");
            }
            text.truncate(start + head.len() + self.bytes);
            text.push('\n');
        }
        (text.into(), self.rows as u64)
    }
}
