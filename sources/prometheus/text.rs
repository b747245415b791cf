//! The Prometheus text format 0.0.4 and OpenMetrics 1.0, line by line.
//!
//! A sample line is cut into the text that names its series, its value, time and exemplar; the
//! name and labels are parsed only on demand ([`series`]), because the text of a known series is
//! looked up as it stands. A bad line costs itself alone.
//!
//! Formats: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>; quoted names as of Prometheus 3.

mod name;
#[cfg(test)]
mod tests;

pub(crate) use name::{Series, labels, sample, series};

use hashbrown::HashMap;
use weir_pipeline::entity::int_fits_double;

use super::Kind;

/// Which of the two formats a text is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text 0.0.4: times in milliseconds.
    Text,
    /// OpenMetrics: times in seconds, exemplars, `# EOF` at the end.
    OpenMetrics,
}

impl Format {
    /// By media type.
    pub(crate) fn of(content_type: &str) -> Self {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// One sample line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample<'a> {
    /// The text that names the series; see [`series`].
    pub(crate) series: &'a str,
    /// What its family was declared as.
    pub(crate) kind: Kind,
    /// Unit of its family, empty if none was declared.
    pub(crate) unit: &'a str,
    /// Value.
    pub(crate) value: f64,
    /// The value where it is an integer that a double does not hold exactly.
    pub(crate) value_int: Option<i64>,
    /// Milliseconds since 1970.
    pub(crate) time: Option<i64>,
    /// Its exemplar.
    pub(crate) exemplar: Option<Exemplar<'a>>,
}

/// An exemplar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exemplar<'a> {
    /// `{...}`, see [`labels`].
    pub(crate) labels: &'a str,
    /// Value.
    pub(crate) value: f64,
    /// Milliseconds since 1970.
    pub(crate) time: Option<i64>,
}

/// Type and unit of a family.
#[derive(Clone, Copy, Debug, Default)]
struct Family<'a> {
    declared: Declared,
    unit: &'a str,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Declared {
    #[default]
    Unknown,
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
}

impl Declared {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "gaugehistogram" => Self::GaugeHistogram,
            "summary" => Self::Summary,
            "info" | "stateset" => Self::Info,
            "untyped" | "unknown" => Self::Unknown,
            _ => return None,
        })
    }

    /// The type of the series that is the family name and `suffix`, `None` if it is not of it.
    ///
    /// Classic histograms and summaries stay the series that they come as: each of those is a
    /// counter or a gauge.
    fn kind(self, suffix: &str) -> Option<Kind> {
        Some(match (self, suffix) {
            (Self::Unknown, "") => Kind::Unknown,
            (Self::Counter, "" | "_total") => Kind::Counter,
            (Self::Gauge | Self::Summary | Self::Info, "") => Kind::Gauge,
            (Self::Info, "_info") => Kind::Gauge,
            (Self::Histogram, "_bucket" | "_sum" | "_count") => Kind::Counter,
            (Self::Summary, "_sum" | "_count") => Kind::Counter,
            (Self::GaugeHistogram, "_bucket" | "_gsum" | "_gcount") => Kind::Gauge,
            (Self::Counter | Self::Histogram | Self::Summary, "_created") => Kind::Gauge,
            (Self::Histogram | Self::GaugeHistogram, "") => Kind::Unknown,
            _ => return None,
        })
    }
}

/// What came of a whole text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Sample lines that were right.
    pub(crate) samples: u64,
    /// Lines that were wrong.
    pub(crate) bad: u64,
    /// Whether `# EOF` came.
    pub(crate) ended: bool,
}

/// Parses `text`, and hands each sample, or what is wrong with a line, to `take` with the number
/// of its line. Bytes that are not UTF-8 spoil their line only.
pub(crate) fn parse(
    text: &[u8],
    format: Format,
    mut take: impl FnMut(usize, Result<Sample<'_>, &'static str>),
) -> Parsed {
    let mut parser = Parser { format, families: HashMap::new(), last: None };
    let mut parsed = Parsed::default();
    let whole = std::str::from_utf8(text);
    match whole {
        Ok(whole) => {
            for (number, line) in (1..).zip(whole.split('\n')) {
                if !parser.line(number, Ok(line), &mut parsed, &mut take) {
                    break;
                }
            }
        }
        Err(_) => {
            for (number, line) in (1..).zip(text.split(|b| *b == b'\n')) {
                let line = std::str::from_utf8(line).map_err(|_| "not UTF-8");
                if !parser.line(number, line, &mut parsed, &mut take) {
                    break;
                }
            }
        }
    }
    parsed
}

struct Parser<'a> {
    format: Format,
    families: HashMap<&'a str, Family<'a>>,
    /// The family of the last comment: most lines are of it.
    last: Option<(&'a str, Family<'a>)>,
}

impl<'a> Parser<'a> {
    /// Takes one line; false after the last one.
    fn line(
        &mut self,
        number: usize,
        line: Result<&'a str, &'static str>,
        parsed: &mut Parsed,
        take: &mut impl FnMut(usize, Result<Sample<'_>, &'static str>),
    ) -> bool {
        let sample = line.and_then(|line| {
            let line = line.trim_matches([' ', '\t', '\r']);
            match line.strip_prefix('#') {
                Some(comment) => self.comment(comment, &mut parsed.ended).map(|()| None),
                None if line.is_empty() => Ok(None),
                None => self.sample(line).map(Some),
            }
        });
        match sample {
            Ok(None) => {}
            Ok(Some(sample)) => {
                parsed.samples += 1;
                take(number, Ok(sample));
            }
            Err(wrong) => {
                parsed.bad += 1;
                take(number, Err(wrong));
            }
        }
        !parsed.ended
    }

    fn comment(&mut self, comment: &'a str, ended: &mut bool) -> Result<(), &'static str> {
        let (word, rest) = cut_word(comment.trim_start_matches([' ', '\t']));
        match word {
            "EOF" if rest.is_empty() && self.format == Format::OpenMetrics => *ended = true,
            "TYPE" | "UNIT" => {
                let (name, rest) = match rest.strip_prefix('"') {
                    // Escapes in the name of a family are not worth a copy: it stays unknown.
                    Some(quoted) => quoted.split_once('"').ok_or("quote is not closed")?,
                    None => cut_word(rest),
                };
                let what = rest.trim_matches([' ', '\t']);
                if name.is_empty() {
                    return Err("comment without a metric name");
                }
                let family = self.families.entry(name).or_default();
                if word == "TYPE" {
                    family.declared = Declared::parse(what).ok_or("unknown metric type")?;
                } else {
                    family.unit = what;
                }
                self.last = Some((name, *family));
            }
            _ => {}
        }
        Ok(())
    }

    fn sample(&self, line: &'a str) -> Result<Sample<'a>, &'static str> {
        let (series, rest) = cut_series(line)?;
        let (value_text, rest) = cut_word(rest);
        let value = number(value_text).ok_or("value is not a number")?;
        let (time, rest) = match rest.is_empty() || rest.starts_with('#') {
            true => (None, rest),
            false => {
                let (time, rest) = cut_word(rest);
                (Some(self.time(time)?), rest)
            }
        };
        let exemplar = match rest.strip_prefix('#') {
            Some(rest) => Some(self.exemplar(rest)?),
            None if rest.is_empty() => None,
            None => return Err("text after the time"),
        };
        let (kind, unit) = self.family(series);
        Ok(Sample { series, kind, unit, value, value_int: inexact(value_text), time, exemplar })
    }

    fn exemplar(&self, text: &'a str) -> Result<Exemplar<'a>, &'static str> {
        let text = text.trim_start_matches([' ', '\t']);
        if !text.starts_with('{') {
            return Err("exemplar without labels");
        }
        let end = closing_brace(text)? + 1;
        let (value, rest) = cut_word(text[end..].trim_start_matches([' ', '\t']));
        let value = number(value).ok_or("value of the exemplar is not a number")?;
        let (time, rest) = cut_word(rest);
        if !rest.is_empty() {
            return Err("text after the exemplar");
        }
        let time = if time.is_empty() { None } else { Some(self.time(time)?) };
        Ok(Exemplar { labels: &text[..end], value, time })
    }

    /// Milliseconds.
    fn time(&self, text: &str) -> Result<i64, &'static str> {
        const WRONG: &str = "time is not a number";
        match self.format {
            Format::Text => text.parse().map_err(|_| WRONG),
            Format::OpenMetrics => {
                let seconds = number(text).filter(|s| s.is_finite()).ok_or(WRONG)?;
                // Floored; a double holds present times to the microsecond, whose error must not
                // cost a millisecond.
                let micros = (seconds * 1e6).round();
                Ok((micros as i64).div_euclid(1_000))
            }
        }
    }

    /// Type and unit of the series named by the text `series`.
    fn family(&self, series: &str) -> (Kind, &'a str) {
        let name = match series.strip_prefix('{') {
            None => series.split(['{', ' ', '\t']).next().unwrap_or_default(),
            Some(quoted) => {
                let quoted = quoted.trim_start_matches([' ', '\t']);
                quoted.strip_prefix('"').and_then(|q| q.split('"').next()).unwrap_or_default()
            }
        };
        if let Some((last, family)) = &self.last
            && let Some(suffix) = name.strip_prefix(last)
            && let Some(kind) = family.declared.kind(suffix)
        {
            return (kind, family.unit);
        }
        let of = |base: &str, suffix: &str| {
            let family = self.families.get(base)?;
            family.declared.kind(suffix).map(|kind| (kind, family.unit))
        };
        let with_suffix = || {
            let at = name.rfind('_')?;
            of(&name[..at], &name[at..])
        };
        of(name, "").or_else(with_suffix).unwrap_or((Kind::Unknown, ""))
    }
}

/// The first word, and what follows it and the blanks behind it.
fn cut_word(text: &str) -> (&str, &str) {
    match text.find([' ', '\t']) {
        Some(at) => (&text[..at], text[at..].trim_start_matches([' ', '\t'])),
        None => (text, ""),
    }
}

/// The text that names the series, and the rest.
fn cut_series(line: &str) -> Result<(&str, &str), &'static str> {
    let name = line.find(['{', ' ', '\t']).ok_or("line without a value")?;
    // A blank may stand between name and labels.
    let after = line[name..].trim_start_matches([' ', '\t']);
    let end = if after.starts_with('{') {
        line.len() - after.len() + closing_brace(after)? + 1
    } else if name == 0 {
        return Err("line without a name");
    } else {
        name
    };
    Ok((&line[..end], line[end..].trim_start_matches([' ', '\t'])))
}

/// Where the brace that opens `text` is closed: not inside quotes.
fn closing_brace(text: &str) -> Result<usize, &'static str> {
    let bytes = text.as_bytes();
    let mut quoted = false;
    let mut i = 1;
    while let Some(&byte) = bytes.get(i) {
        match byte {
            b'\\' if quoted => i += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(i),
            _ => {}
        }
        i += 1;
    }
    Err(if quoted { "quote is not closed" } else { "brace is not closed" })
}

/// A value as Prometheus writes it: `1`, `1e3`, `NaN`, `+Inf`.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// The integer that `text` is, if a double may not hold it.
fn inexact(text: &str) -> Option<i64> {
    if text.len() < 16 {
        return None; // below 2^53
    }
    text.parse().ok().filter(|int| !int_fits_double(*int))
}
