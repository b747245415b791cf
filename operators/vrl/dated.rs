//! Parsers of lines that do not say their year: VRL's own take it from the clock, these from the
//! last tick. What they accept and give is the same (vrl 0.38, `stdlib/parse_syslog.rs`,
//! `parse_klog.rs`).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chrono::{DateTime, Datelike, NaiveDateTime, Utc};
use regex::Regex;
use syslog_loose::{Message, ProcId, Protocol, Variant};
use vrl::compiler::prelude::*;

use super::functions::now;

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dated {
    Syslog,
    /// Another name for `Syslog`.
    LinuxAuthorization,
    Klog,
}

pub(super) const ALL: [Dated; 3] = [Dated::Syslog, Dated::LinuxAuthorization, Dated::Klog];

impl Function for Dated {
    fn identifier(&self) -> &'static str {
        match self {
            Self::Syslog => "parse_syslog",
            Self::LinuxAuthorization => "parse_linux_authorization",
            Self::Klog => "parse_klog",
        }
    }

    fn usage(&self) -> &'static str {
        "A missing year is that of the last tick; December in January is of the year before."
    }

    fn category(&self) -> &'static str {
        Category::Parse.as_ref()
    }

    fn return_kind(&self) -> u16 {
        kind::OBJECT
    }

    fn parameters(&self) -> &'static [Parameter] {
        const VALUE: &[Parameter] = &[Parameter::required("value", kind::BYTES, "The line.")];
        VALUE
    }

    fn examples(&self) -> &'static [Example] {
        &[]
    }

    fn compile(
        &self,
        _state: &TypeState,
        _ctx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        Ok(DatedFn { what: *self, value: arguments.required("value") }.as_expr())
    }
}

#[derive(Clone, Debug)]
struct DatedFn {
    what: Dated,
    value: Box<dyn Expression>,
}

impl FunctionExpression for DatedFn {
    fn resolve(&self, ctx: &mut Context) -> Resolved {
        let value = self.value.resolve(ctx)?;
        let line = value.try_bytes_utf8_lossy()?;
        let now = now(ctx);
        let year = |month| now.year() - i32::from(now.month() == 1 && month == 12);
        match self.what {
            Dated::Klog => klog(&line, year),
            Dated::Syslog | Dated::LinuxAuthorization => {
                let (year, variant) =
                    (|date: syslog_loose::IncompleteDate| year(date.0), Variant::Either);
                // Without the zone, times would be those of the machine's.
                let parsed = syslog_loose::parse_message_with_year_exact_tz(
                    &line,
                    year,
                    Some(Utc),
                    variant,
                )?;
                Ok(syslog(parsed))
            }
        }
    }

    fn type_def(&self, _state: &TypeState) -> TypeDef {
        let kinds = match self.what {
            Dated::Klog => vec![
                ("level", Kind::bytes()),
                ("timestamp", Kind::timestamp()),
                ("id", Kind::integer()),
                ("file", Kind::bytes()),
                ("line", Kind::integer()),
                ("message", Kind::bytes()),
            ],
            Dated::Syslog | Dated::LinuxAuthorization => vec![
                ("message", Kind::bytes()),
                ("hostname", Kind::bytes().or_null()),
                ("severity", Kind::bytes().or_null()),
                ("facility", Kind::bytes().or_null()),
                ("appname", Kind::bytes().or_null()),
                ("msgid", Kind::bytes().or_null()),
                ("timestamp", Kind::timestamp().or_null()),
                ("procid", Kind::bytes().or_integer().or_null()),
                ("version", Kind::integer().or_null()),
            ],
        };
        let kinds: BTreeMap<Field, Kind> = kinds.into_iter().map(|(n, k)| (n.into(), k)).collect();
        TypeDef::object(kinds).fallible()
    }
}

fn syslog(message: Message<&str>) -> Value {
    let mut out = ObjectMap::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.into(), value);
        }
    };
    put("message", Some(message.msg.into()));
    put("hostname", message.hostname.map(Value::from));
    put("severity", message.severity.map(|s| s.as_str().into()));
    put("facility", message.facility.map(|f| f.as_str().into()));
    if let Protocol::RFC5424(version) = message.protocol {
        put("version", Some(version.into()));
    }
    put("appname", message.appname.map(Value::from));
    put("msgid", message.msgid.map(Value::from));
    put("timestamp", message.timestamp.map(|t| DateTime::<Utc>::from(t).into()));
    put(
        "procid",
        message.procid.map(|p| match p {
            ProcId::PID(pid) => pid.into(),
            ProcId::Name(name) => name.to_string().into(),
        }),
    );
    for element in message.structured_data {
        let pairs = element.params().map(|(name, value)| ((*name).into(), value.into()));
        put(element.id, Some(Value::Object(pairs.collect())));
    }
    Value::Object(out)
}

/// `I0505 17:59:40.692994   28133 klog.go:70] text`; `None` only if the pattern were wrong, which
/// a test would show.
static KLOG: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^\s*(\w)((\d{2})\d{2}\s\d{2}:\d{2}:\d{2}\.\d{6})\s+(\d+)\s(.+):(\d+)\]\s(.*?)\s*$")
        .ok()
});

fn klog(line: &str, year: impl Fn(u32) -> i32) -> Resolved {
    let captures = KLOG.as_ref().and_then(|r| r.captures(line));
    let captures = captures.ok_or("failed parsing klog message")?;
    let (_, [level, time, month, id, file, number, message]) = captures.extract();
    let level = match level {
        "I" => "info",
        "W" => "warning",
        "E" => "error",
        "F" => "fatal",
        _ => return Err(format!("unrecognized log level \"{level}\"").into()),
    };
    let year = year(month.parse().unwrap_or_default());
    let at = NaiveDateTime::parse_from_str(&format!("{year}{time}"), "%Y%m%d %H:%M:%S%.f")
        .map_err(|e| format!("failed parsing timestamp {time}: {e}"))?;
    let id: i64 = id.parse().map_err(|_| "failed parsing id")?;
    let number: i64 = number.parse().map_err(|_| "failed parsing line")?;
    let fields: [(&str, Value); 6] = [
        ("level", level.into()),
        ("timestamp", at.and_utc().into()),
        ("id", id.into()),
        ("file", file.into()),
        ("line", number.into()),
        ("message", message.into()),
    ];
    Ok(Value::Object(fields.into_iter().map(|(name, value)| (name.into(), value)).collect()))
}
