//! Pieces of the states of operators: numbers little-endian, bytes behind their length.

use weir_pipeline::entity::{Attribute, Entity, Origin, Value};

/// Appends bytes behind their length.
pub(crate) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend(bytes);
}

/// The inverse of [`put`].
pub(crate) fn get<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(get_u64(bytes)?).ok()?;
    let (first, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(first)
}

/// Appends a number.
pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_le_bytes());
}

/// Takes a number off the front.
pub(crate) fn get_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*first))
}

/// Appends a double.
pub(crate) fn put_f64(out: &mut Vec<u8>, number: f64) {
    put_u64(out, number.to_bits());
}

/// Takes a double off the front.
pub(crate) fn get_f64(bytes: &mut &[u8]) -> Option<f64> {
    get_u64(bytes).map(f64::from_bits)
}

/// Appends a short float.
pub(crate) fn put_f32(out: &mut Vec<u8>, number: f32) {
    out.extend(number.to_bits().to_le_bytes());
}

/// Takes a short float off the front.
pub(crate) fn get_f32(bytes: &mut &[u8]) -> Option<f32> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(f32::from_bits(u32::from_le_bytes(*first)))
}

/// Takes one byte off the front.
pub(crate) fn get_u8(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// Takes text off the front.
pub(crate) fn get_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(get(bytes)?).ok()
}

const ORIGINS: [Origin; 4] = [Origin::Metric, Origin::Label, Origin::Resource, Origin::Scope];

/// Appends the attributes of an entity.
pub(crate) fn put_entity(out: &mut Vec<u8>, entity: &Entity) {
    put_u64(out, entity.attributes().len() as u64);
    for a in entity.attributes() {
        put(out, a.name.as_bytes());
        out.push(ORIGINS.iter().position(|o| *o == a.origin).unwrap_or_default() as u8);
        match &a.value {
            Value::Bool(v) => out.extend([0, u8::from(*v)]),
            Value::Int(v) => {
                out.push(1);
                put_u64(out, *v as u64);
            }
            Value::Double(v) => {
                out.push(2);
                put_u64(out, v.to_bits());
            }
            Value::Text(v) => {
                out.push(3);
                put(out, v.as_bytes());
            }
            Value::Json(v) => {
                out.push(4);
                put(out, v.as_bytes());
            }
        }
    }
}

/// The inverse of [`put_entity`].
pub(crate) fn get_entity(bytes: &mut &[u8]) -> Option<Entity> {
    let mut attributes = Vec::new();
    for _ in 0..get_u64(bytes)? {
        let name = get_text(bytes)?.into();
        let origin = *ORIGINS.get(usize::from(get_u8(bytes)?))?;
        let value = match get_u8(bytes)? {
            0 => Value::Bool(get_u8(bytes)? == 1),
            1 => Value::Int(get_u64(bytes)? as i64),
            2 => Value::Double(f64::from_bits(get_u64(bytes)?)),
            3 => Value::Text(get_text(bytes)?.into()),
            4 => Value::Json(get_text(bytes)?.into()),
            _ => return None,
        };
        attributes.push(Attribute { name, value, origin });
    }
    Some(Entity::new(attributes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e9..1e9f64).prop_map(Value::Double),
            ".{0,9}".prop_map(|t| Value::Text(t.into())),
            ".{0,9}".prop_map(|t| Value::Json(t.into())),
        ]
    }

    proptest! {
        #[test]
        fn entities_come_back(
            attributes in proptest::collection::vec((".{0,9}", value(), 0usize..4), 0..6),
        ) {
            let attributes = attributes.into_iter().map(|(name, value, origin)| Attribute {
                name: name.into(), value, origin: ORIGINS[origin],
            });
            let entity = Entity::new(attributes.collect());
            let mut out = Vec::new();
            put_entity(&mut out, &entity);
            let back = get_entity(&mut &out[..]).unwrap();
            prop_assert_eq!(back.fingerprint(), entity.fingerprint());
            prop_assert_eq!(back, entity);
            for cut in 0..out.len() {
                prop_assert!(get_entity(&mut &out[..cut]).is_none());
            }
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(0u8..6, 0..80)) {
            let _ = get_entity(&mut &bytes[..]);
        }
    }
}
