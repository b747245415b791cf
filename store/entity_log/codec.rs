//! Entities as bytes: exact (types and origins), and as a key whose order is theirs in files.

use std::sync::Arc;

use weir_pipeline::entity::{Attribute, Entity, Origin, Value};

use crate::layout::{get, put};

/// Longest sort key, in bytes. Entities that agree so far are ordered by fingerprint.
const SORT_KEY_BYTES: usize = 1_024;

/// Bytes whose order is the order of entities in files: metrics by name, others by service, then
/// by all attributes. Different entities have different keys (the fingerprint ends them).
pub(crate) fn sort_key(entity: &Entity) -> Box<[u8]> {
    let mut key = Vec::with_capacity(256);
    let lead = ["metric.name", "service.name"].into_iter().find_map(|n| entity.attribute(n));
    if let Some(lead) = lead {
        put_part(&mut key, &lead.value.to_text());
    }
    key.push(0);
    for a in entity.attributes() {
        if key.len() >= SORT_KEY_BYTES {
            break;
        }
        if lead.is_none_or(|lead| !std::ptr::eq(lead, a)) {
            put_part(&mut key, &a.name);
            key.push(1);
            put_part(&mut key, &a.value.to_text());
            key.push(0);
        }
    }
    key.truncate(SORT_KEY_BYTES);
    key.extend(entity.fingerprint().to_be_bytes());
    key.as_slice().into()
}

/// Text without the bytes that stand between parts.
fn put_part(key: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b > 1) {
        key.extend_from_slice(text.as_bytes());
    } else {
        key.extend(text.bytes().filter(|b| *b > 1));
    }
}

/// Every attribute with its type and origin.
pub(crate) fn encode_entity(entity: &Entity, out: &mut Vec<u8>) {
    put(out, entity.attributes().len() as u64);
    for a in entity.attributes() {
        put(out, a.name.len() as u64);
        out.extend(a.name.as_bytes());
        out.push(match a.origin {
            Origin::Metric => 0,
            Origin::Label => 1,
            Origin::Resource => 2,
            Origin::Scope => 3,
        });
        match &a.value {
            Value::Bool(v) => out.extend([0, u8::from(*v)]),
            Value::Int(v) => {
                out.push(1);
                out.extend(v.to_le_bytes());
            }
            Value::Double(v) => {
                out.push(2);
                out.extend(v.to_bits().to_le_bytes());
            }
            Value::Text(v) | Value::Json(v) => {
                out.push(if matches!(a.value, Value::Json(_)) { 4 } else { 3 });
                put(out, v.len() as u64);
                out.extend(v.as_bytes());
            }
        }
    }
}

/// The inverse of [`encode_entity`]; takes the entity off the front.
pub(crate) fn decode_entity(at: &mut &[u8]) -> Option<Entity> {
    let count = get(at)?;
    let mut attributes = Vec::with_capacity(count.min(1_000) as usize);
    for _ in 0..count {
        let name = text(at)?;
        let origin = match byte(at)? {
            0 => Origin::Metric,
            1 => Origin::Label,
            2 => Origin::Resource,
            3 => Origin::Scope,
            _ => return None,
        };
        let value = match byte(at)? {
            0 => Value::Bool(byte(at)? != 0),
            1 => Value::Int(i64::from_le_bytes(bytes(at)?)),
            2 => Value::Double(f64::from_bits(u64::from_le_bytes(bytes(at)?))),
            3 => Value::Text(text(at)?),
            4 => Value::Json(text(at)?),
            _ => return None,
        };
        attributes.push(Attribute { name, value, origin });
    }
    Some(Entity::new(attributes))
}

fn byte(at: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = at.split_first()?;
    *at = rest;
    Some(first)
}

fn bytes<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = at.split_first_chunk::<N>()?;
    *at = rest;
    Some(*first)
}

fn text(at: &mut &[u8]) -> Option<Arc<str>> {
    let len = usize::try_from(get(at)?).ok()?;
    let (text, rest) = at.split_at_checked(len)?;
    *at = rest;
    Some(std::str::from_utf8(text).ok()?.into())
}
