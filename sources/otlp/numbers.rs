//! Gauges and sums read in place, as senders mostly write them (see [`super::flat`]). Attributes of
//! points are not looked at here: those of a known series are its name, and a metric with others is
//! left to `prost`.

use super::flat::{self, Odd, Seen};
use crate::protobuf::{Field, Fields, Reader};

/// A metric with number data points.
#[derive(Debug, Default)]
pub(super) struct Numbers<'a> {
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) is_counter: bool,
    pub(super) temporality: i32,
}

/// A number data point.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point<'a> {
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) flags: u32,
    pub(super) value: Option<Number>,
    /// Its attributes, as they stand in the message.
    pub(super) attributes: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Double(f64),
    Int(i64),
}

impl<'a> Numbers<'a> {
    /// Reads a `Metric` that is a gauge or a sum, its points into a list.
    pub(super) fn read(message: &'a [u8], points: &mut Vec<Point<'a>>) -> Result<Self, Odd> {
        let mut metric = Self::default();
        let (mut seen, mut has_data) = (Seen::default(), false);
        let mut message = Reader(message);
        while let Some(tag) = message.tag()? {
            match tag {
                0x0a => metric.name = flat::text(&mut message)?,
                0x12 => {
                    flat::text(&mut message)?;
                }
                0x1a => metric.unit = flat::text(&mut message)?,
                0x2a | 0x3a if !has_data => {
                    has_data = true;
                    metric.data(tag == 0x3a, message.bytes()?, points)?;
                }
                other => {
                    message.skip(other, 12)?;
                    continue;
                }
            }
            seen.first(tag)?;
        }
        if has_data { Ok(metric) } else { Err(Odd) }
    }

    /// See [`head`].
    pub(super) fn head(&self) -> Vec<u8> {
        head(self.name, self.unit, self.temporality)
    }

    fn data(
        &mut self,
        is_sum: bool,
        message: &'a [u8],
        points: &mut Vec<Point<'a>>,
    ) -> Result<(), Odd> {
        let mut seen = Seen::default();
        let mut message = Reader(message);
        while let Some(tag) = message.tag()? {
            match tag {
                0x0a => {
                    points.push(Point::read(message.bytes()?)?);
                    continue;
                }
                0x10 if is_sum => self.temporality = message.varint()? as i32,
                0x18 if is_sum => self.is_counter = message.varint()? != 0,
                other => {
                    message.skip(other, if is_sum { 3 } else { 1 })?;
                    continue;
                }
            }
            seen.first(tag)?;
        }
        Ok(())
    }
}

impl<'a> Point<'a> {
    /// Reads a `NumberDataPoint` without exemplars, whose attributes stand together.
    #[inline]
    fn read(whole: &'a [u8]) -> Result<Self, Odd> {
        let mut point = Self::default();
        let mut seen = Seen::default();
        let mut message = Reader(whole);
        while let Some(tag) = message.tag()? {
            match tag {
                0x11 => point.start = message.fixed64()?,
                0x19 => point.time = message.fixed64()?,
                0x21 | 0x31 if point.value.is_none() => {
                    let bits = message.fixed64()?;
                    point.value = Some(match tag {
                        0x21 => Number::Double(f64::from_bits(bits)),
                        _ => Number::Int(bits as i64),
                    });
                }
                0x3a => {
                    let start = whole.len() - message.0.len() - 1;
                    message.bytes()?;
                    while let [0x3a, rest @ ..] = message.0 {
                        message.0 = rest;
                        message.bytes()?;
                    }
                    point.attributes = &whole[start..whole.len() - message.0.len()];
                }
                0x40 => point.flags = message.varint()? as u32,
                other => {
                    message.skip(other, 8)?;
                    continue;
                }
            }
            seen.first(tag)?;
        }
        Ok(point)
    }
}

/// What names the series of a metric of one kind, besides their attributes and bounds and what is
/// around the metric.
pub(super) fn head(name: &str, unit: &str, temporality: i32) -> Vec<u8> {
    let mut head = Vec::with_capacity(name.len() + unit.len() + 32);
    head.extend(temporality.to_le_bytes());
    head.extend((name.len() as u64).to_le_bytes());
    head.extend(name.as_bytes());
    head.extend((unit.len() as u64).to_le_bytes());
    head.extend(unit.as_bytes());
    head
}

/// What names the series of each point of a metric that `prost` decodes: the fields with its
/// attributes and explicit bounds, as they stand. [`Odd`] if there are quantiles, which stand among
/// values, or data of more than one kind.
pub(super) fn attributes(metric: &[u8]) -> Result<Vec<Vec<u8>>, Odd> {
    let mut data = None;
    for field in Fields(metric) {
        let field = field?;
        if matches!(field.number, 5 | 7 | 9..=11) && data.replace(field).is_some() {
            return Err(Odd);
        }
    }
    let Field { number, value, .. } = data.ok_or(Odd)?;
    let naming: &[u32] = match number {
        5 | 7 => &[7],
        9 => &[7, 9],
        10 => &[1],
        _ => return Err(Odd),
    };
    let mut out = Vec::new();
    for point in Fields(value.bytes()?) {
        let point = point?;
        if point.number != 1 {
            continue;
        }
        let mut name = Vec::new();
        for field in Fields(point.value.bytes()?) {
            let field = field?;
            if naming.contains(&field.number) {
                name.extend(field.raw);
            }
        }
        out.push(name);
    }
    Ok(out)
}
