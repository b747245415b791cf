//! Times in syslog messages: RFC 3339, and what devices write before it or instead.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

/// Abbreviations that mean one offset wherever they are used, in minutes.
const ZONES: [(&str, i32); 18] = [
    ("UTC", 0),
    ("GMT", 0),
    ("Z", 0),
    ("WET", 0),
    ("WEST", 60),
    ("CET", 60),
    ("CEST", 120),
    ("EET", 120),
    ("EEST", 180),
    ("MSK", 180),
    ("JST", 540),
    ("EST", -300),
    ("EDT", -240),
    ("CDT", -300),
    ("MST", -420),
    ("MDT", -360),
    ("PST", -480),
    ("PDT", -420),
];

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// A time as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    year: Option<i16>,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    nanos: i32,
    /// Seconds east of UTC.
    offset: Option<i32>,
}

/// The time zone called `text`: an IANA name or an offset such as `+02:00`.
pub(super) fn zone(text: &str) -> Option<TimeZone> {
    if let Some((seconds, "")) = offset(text) {
        return Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?));
    }
    // The bundled database: the same zone on every machine that replays.
    TimeZoneDatabase::bundled().get(text).ok()
}

impl Written {
    /// UTC nanoseconds. A time without a zone is in `zone`, one without a year in the year that
    /// brings it nearest to `received`. `None` if there is no such day, or nanoseconds cannot
    /// hold it.
    pub(super) fn resolve(&self, zone: &TimeZone, received: i64) -> Option<i64> {
        if let Some(year) = self.year {
            return self.in_year(year, zone);
        }
        let received_at = Timestamp::from_nanosecond(received.into()).ok()?;
        let year = zone.to_datetime(received_at).year();
        (year - 1..=year + 1)
            .filter_map(|year| self.in_year(year, zone))
            .min_by_key(|time| time.abs_diff(received))
    }

    fn in_year(&self, year: i16, zone: &TimeZone) -> Option<i64> {
        // A leap second is the first of the next minute.
        let leap = i64::from(self.second == 60);
        let second = self.second.min(59);
        let (hour, minute) = (self.hour, self.minute);
        let civil = DateTime::new(year, self.month, self.day, hour, minute, second, self.nanos);
        let civil = civil.ok()?;
        let time = match self.offset {
            Some(seconds) => Offset::from_seconds(seconds).ok()?.to_timestamp(civil).ok()?,
            None => zone.to_ambiguous_timestamp(civil).compatible().ok()?,
        };
        let nanos = i64::try_from(time.as_nanosecond()).ok()?;
        nanos.checked_add(leap * 1_000_000_000)
    }
}

/// RFC 3339, also with a blank for the `T`, a comma for the point or no zone. The time, and the
/// rest of the text.
pub(super) fn iso(text: &str) -> Option<(Written, &str)> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (clock, rest) = clock(rest.strip_prefix(['T', 't', ' '])?)?;
    let (offset, rest) = match offset(rest) {
        Some((offset, rest)) => (Some(offset), rest),
        None => match rest.strip_prefix(['Z', 'z']) {
            Some(rest) => (Some(0), rest),
            None => (None, rest),
        },
    };
    let date = Written { year: Some(year as i16), month: month as i8, day: day as i8, ..clock };
    Some((Written { offset, ..date }, ends(rest)?))
}

/// `Oct 11 22:14:15`, with a year before or behind the clock, a fraction, or a zone. The time,
/// and the rest of the text, blanks included.
pub(super) fn bsd(text: &str) -> Option<(Written, &str)> {
    let name = text.get(..3)?.to_ascii_lowercase();
    let month = MONTHS.iter().position(|m| *m == name)? as i8 + 1;
    let rest = blank(text.get(3..)?)?;
    let (day, rest) = one_or_two(rest)?;
    let rest = blank(rest)?;
    let (year, rest) = match digits(rest, 4).and_then(|(y, rest)| Some((y, blank(rest)?))) {
        Some((year, rest)) => (Some(year as i16), rest),
        None => (None, rest),
    };
    let (clock, rest) = clock(rest)?;
    let mut time = Written { year, month, day: day as i8, ..clock };
    let mut rest = ends(rest)?;
    if let Some((offset, after)) = offset(rest) {
        time.offset = Some(offset);
        return Some((time, ends(after)?));
    }
    // A year behind the clock, then a zone: both are a word of their own.
    if time.year.is_none()
        && let Some((year, after)) = rest.strip_prefix(' ').and_then(|r| digits(r, 4))
        && (1970..=2100).contains(&year)
        && let Some(after) = ends(after)
    {
        time.year = Some(year as i16);
        rest = after;
    }
    if let Some(word) = rest.strip_prefix(' ') {
        let end = word.find([' ', ':']).unwrap_or(word.len());
        let (zone, after) = word.split_at(end);
        if let Some((_, minutes)) = ZONES.iter().find(|(name, _)| *name == zone) {
            time.offset = Some(minutes * 60);
            rest = after;
        } else if let Some((seconds, "")) = offset(zone) {
            time.offset = Some(seconds);
            rest = after;
        }
    }
    Some((time, rest))
}

/// `22:14:15` with a fraction of up to nine digits; more are dropped.
fn clock(text: &str) -> Option<(Written, &str)> {
    let (hour, rest) = digits(text, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut nanos = 0;
    let mut after = rest;
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if length > 0 {
            let (digits, rest) = fraction.split_at(length);
            let nine = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
            nanos = nine.fold(0, |n, b| n * 10 + i32::from(b - b'0'));
            after = rest;
        }
    }
    let (hour, minute, second) = (hour as i8, minute as i8, second as i8);
    let none = Written { year: None, month: 0, day: 0, hour, minute, second, nanos, offset: None };
    Some((none, after))
}

/// `+02:00`, `-0530`: seconds east of UTC, and the rest.
fn offset(text: &str) -> Option<(i32, &str)> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, rest) = match digits(rest, 4) {
        Some((both, _)) => (both / 100, rest.get(2..)?),
        None => digits(rest, 2).and_then(|(h, rest)| Some((h, rest.strip_prefix(':')?)))?,
    };
    let (minutes, rest) = digits(rest, 2)?;
    (hours <= 23 && minutes <= 59).then_some((sign * (hours * 3600 + minutes * 60), rest))
}

/// The text, if a time may end in front of it.
fn ends(text: &str) -> Option<&str> {
    let next = text.chars().next();
    next.is_none_or(|c| matches!(c, ' ' | ':' | '+' | '-' | '\t')).then_some(text)
}

/// Without the blanks at its start, of which there must be one.
fn blank(text: &str) -> Option<&str> {
    text.strip_prefix(' ').map(|rest| rest.trim_start_matches(' '))
}

/// Exactly `n` digits that no further digit follows.
fn digits(text: &str, n: usize) -> Option<(i32, &str)> {
    let head = text.get(..n)?;
    let rest = &text[n..];
    let all = head.bytes().all(|b| b.is_ascii_digit());
    (all && !rest.starts_with(|c: char| c.is_ascii_digit()))
        .then(|| (head.bytes().fold(0, |n, b| n * 10 + i32::from(b - b'0')), rest))
}

fn one_or_two(text: &str) -> Option<(i32, &str)> {
    digits(text, 2).or_else(|| digits(text, 1))
}
