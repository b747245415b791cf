//! The functions that a program may call: the standard library without what would make the same
//! input give another output.
//!
//! Time and chance come from the journal: `now` is the wall time of the last tick, random
//! functions derive from the place of the row in the journal, the operator, and from which call of
//! its function in the program it is, so that an edit elsewhere changes nothing.

use chrono::{DateTime, Utc};
use vrl::compiler::prelude::*;
use vrl::path::{OwnedTargetPath, OwnedValuePath};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{dated, lookups};

/// Left out, with what to do instead.
pub(super) const REFUSED: [(&str, &str); 13] = [
    ("dns_lookup", "programs cannot reach the network"),
    ("reverse_dns", "programs cannot reach the network"),
    ("http_request", "programs cannot reach the network"),
    ("get_env_var", "write `${NAME}` in a string value of the file instead"),
    ("get_hostname", "the host of a record is its `host.name`"),
    ("get_timezone_name", "times are UTC; name a time zone where one is needed"),
    ("parse_etld", "programs cannot read files"),
    ("parse_proto", "programs cannot read files"),
    ("encode_proto", "programs cannot read files"),
    ("validate_json_schema", "programs cannot read files"),
    ("random_bytes", "use `random_int`, `random_float`, `random_bool` or `uuid_v4`"),
    ("uuid_v7", "use `uuid_v4`"),
    ("log", "rows are seen with `weir tap`"),
];

/// Hidden metadata that the functions below read.
pub(super) const NOW: &str = "weir_now";
/// Offset of the row's entry and index of the row in it.
pub(super) const SEED: &str = "weir_seed";

/// Those that read time or place, in our own form.
const OWN: [&str; 8] = [
    "now",
    "random_bool",
    "random_float",
    "random_int",
    "uuid_v4",
    "parse_syslog",
    "parse_linux_authorization",
    "parse_klog",
];

/// Every function that a program may call.
pub(super) fn all() -> Vec<Box<dyn Function>> {
    let mut functions = vrl::stdlib::all();
    functions.retain(|f| {
        let name = f.identifier();
        !OWN.contains(&name) && !REFUSED.iter().any(|(refused, _)| *refused == name)
    });
    functions.push(Box::new(Now));
    for chance in [Chance::Bool, Chance::Float, Chance::Int, Chance::Uuid] {
        functions.push(Box::new(chance));
    }
    for parser in dated::ALL {
        functions.push(Box::new(parser));
    }
    for asked in lookups::ALL {
        functions.push(Box::new(asked));
    }
    functions
}

/// Whether a program may give another result for the same row at another place or time.
pub(super) fn reads_place_or_time(source: &str) -> bool {
    OWN.iter().any(|f| {
        source.match_indices(f).any(|(at, f)| {
            source[at + f.len()..].trim_start_matches('!').trim_start().starts_with('(')
        })
    })
}

fn metadata(ctx: &Context, name: &str) -> Option<Value> {
    let path = OwnedTargetPath::metadata(OwnedValuePath::root().with_field_appended(name));
    ctx.target().target_get(&path).ok().flatten().cloned()
}

#[derive(Clone, Copy, Debug)]
struct Now;

impl Function for Now {
    fn identifier(&self) -> &'static str {
        "now"
    }

    fn usage(&self) -> &'static str {
        "Returns the wall time of the last tick."
    }

    fn category(&self) -> &'static str {
        Category::Timestamp.as_ref()
    }

    fn return_kind(&self) -> u16 {
        kind::TIMESTAMP
    }

    fn examples(&self) -> &'static [Example] {
        &[]
    }

    fn compile(
        &self,
        _state: &TypeState,
        _ctx: &mut FunctionCompileContext,
        _arguments: ArgumentList,
    ) -> Compiled {
        Ok(NowFn.as_expr())
    }
}

#[derive(Clone, Debug)]
struct NowFn;

impl FunctionExpression for NowFn {
    fn resolve(&self, ctx: &mut Context) -> Resolved {
        Ok(Value::Timestamp(now(ctx)))
    }

    fn type_def(&self, _state: &TypeState) -> TypeDef {
        TypeDef::timestamp()
    }
}

/// The wall time of the last tick.
pub(super) fn now(ctx: &Context) -> DateTime<Utc> {
    match metadata(ctx, NOW) {
        Some(Value::Integer(nanos)) => time(nanos),
        _ => time(0),
    }
}

/// UTC nanoseconds as chrono has it.
pub(super) fn time(nanos: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(nanos)
}

/// How often each function of chance occurs in a program so far; given to its compiler.
#[derive(Default)]
pub(super) struct ChanceCalls([u64; 4]);

/// The functions of chance.
#[derive(Clone, Copy, Debug)]
enum Chance {
    Bool,
    Float,
    Int,
    Uuid,
}

impl Function for Chance {
    fn identifier(&self) -> &'static str {
        match self {
            Self::Bool => "random_bool",
            Self::Float => "random_float",
            Self::Int => "random_int",
            Self::Uuid => "uuid_v4",
        }
    }

    fn usage(&self) -> &'static str {
        "Derived from the place of the row in the journal: the same row gives the same value."
    }

    fn category(&self) -> &'static str {
        Category::Random.as_ref()
    }

    fn return_kind(&self) -> u16 {
        match self {
            Self::Bool => kind::BOOLEAN,
            Self::Float => kind::FLOAT,
            Self::Int => kind::INTEGER,
            Self::Uuid => kind::BYTES,
        }
    }

    fn parameters(&self) -> &'static [Parameter] {
        const INT: &[Parameter] = &[
            Parameter::required("min", kind::INTEGER, "Minimum value (inclusive)."),
            Parameter::required("max", kind::INTEGER, "Maximum value (exclusive)."),
        ];
        const FLOAT: &[Parameter] = &[
            Parameter::required("min", kind::FLOAT, "Minimum value (inclusive)."),
            Parameter::required("max", kind::FLOAT, "Maximum value (exclusive)."),
        ];
        match self {
            Self::Int => INT,
            Self::Float => FLOAT,
            Self::Bool | Self::Uuid => &[],
        }
    }

    fn examples(&self) -> &'static [Example] {
        &[]
    }

    fn compile(
        &self,
        _state: &TypeState,
        ctx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let bounds = match self {
            Self::Int | Self::Float => Some((arguments.required("min"), arguments.required("max"))),
            Self::Bool | Self::Uuid => None,
        };
        let calls = ctx.get_external_context_mut::<ChanceCalls>();
        let uncounted = || Box::new(ExpressionError::from("calls are not counted")) as Box<_>;
        let calls = calls.ok_or_else(uncounted)?;
        let nth = &mut calls.0[*self as usize];
        let call = (*nth << 2) | *self as u64;
        *nth += 1;
        Ok(ChanceFn { chance: *self, bounds, call }.as_expr())
    }
}

#[derive(Clone, Debug)]
struct ChanceFn {
    chance: Chance,
    bounds: Option<(Box<dyn Expression>, Box<dyn Expression>)>,
    /// Function, and which of its calls: so that two calls of a row differ.
    call: u64,
}

impl ChanceFn {
    fn draw(&self, ctx: &Context, nth: u64) -> u64 {
        let seed = match metadata(ctx, SEED) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => Bytes::new(),
        };
        xxh3_64_with_seed(&seed, (self.call << 1) | nth)
    }
}

/// 53 bits of a draw as a double in [0, 1).
fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}

impl FunctionExpression for ChanceFn {
    fn resolve(&self, ctx: &mut Context) -> Resolved {
        let bounds = match &self.bounds {
            Some((min, max)) => Some((min.resolve(ctx)?, max.resolve(ctx)?)),
            None => None,
        };
        let draw = self.draw(ctx, 0);
        match (self.chance, bounds) {
            (Chance::Int, Some((Value::Integer(min), Value::Integer(max)))) if min < max => {
                let span = (i128::from(max) - i128::from(min)) as u128;
                // A draw of 64 bits scaled to the span: bias below 2^-64 of it.
                let offset = (u128::from(draw) * span) >> 64;
                Ok(Value::Integer((i128::from(min) + offset as i128) as i64))
            }
            (Chance::Float, Some((Value::Float(min), Value::Float(max)))) if min < max => {
                let value = min.into_inner() + (max - min).into_inner() * unit(draw);
                Ok(Value::from_f64_or_zero(value))
            }
            (Chance::Int | Chance::Float, _) => Err("max must be greater than min".into()),
            (Chance::Bool, _) => Ok(Value::Boolean(draw & 1 == 1)),
            (Chance::Uuid, _) => {
                let bits = (u128::from(draw) << 64) | u128::from(self.draw(ctx, 1));
                // RFC 9562, section 5.4: version 4, variant 10.
                let bits = (bits & !(0xf << 76)) | (0x4 << 76);
                let bits = (bits & !(0x3 << 62)) | (0x2 << 62);
                let hex = format!("{bits:032x}");
                let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
                Ok(Value::from(uuid.join("-")))
            }
        }
    }

    fn type_def(&self, _state: &TypeState) -> TypeDef {
        match self.chance {
            Chance::Bool => TypeDef::boolean(),
            Chance::Float => TypeDef::float().fallible(),
            Chance::Int => TypeDef::integer().fallible(),
            Chance::Uuid => TypeDef::bytes(),
        }
    }
}
