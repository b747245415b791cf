//! What rows have in common: resource, scope, metric and labels, under column names.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use weir_pipeline::entity::{Attribute, Entity, Origin, Value};
use weir_pipeline::signal::{COLUMNS_MAX, Signal};

use super::{Cell, NAME_BYTES_MAX, attribute_column, build, semantic};

/// Collects the attributes of one entity under the names they came with; [`EntityBuilder::build`]
/// gives each its column name.
///
/// Of attributes with one name the label has it before the resource, the resource before the
/// scope; the others are `resource.<name>`, `scope.<name>`.
#[derive(Clone, Debug)]
pub(crate) struct EntityBuilder {
    signal: Signal,
    /// Canonical names, which nothing else may take.
    fixed: Vec<Attribute>,
    attributes: Vec<Attribute>,
}

impl EntityBuilder {
    /// An entity of rows of `signal`.
    pub(crate) fn new(signal: Signal) -> Self {
        Self { signal, fixed: Vec::new(), attributes: Vec::new() }
    }

    /// Sets a canonical column (`metric.name`, `scope.version`) or a field of the protocol
    /// (`resource.schema_url`). Empty text is left out.
    pub(crate) fn field(&mut self, name: &str, value: Value, origin: Origin) {
        if !matches!(&value, Value::Text(t) if t.is_empty()) {
            self.fixed.push(Attribute { name: name.into(), value, origin });
        }
    }

    /// Sets an attribute of the resource, the scope or, as [`Origin::Label`], of the series. Of a
    /// name given twice for one origin the first value stays.
    pub(crate) fn attribute(&mut self, origin: Origin, name: &str, value: Cell<'_>) {
        let column = attribute_column(&self.signal, name);
        let value = semantic::cast(&column, value.to_value());
        self.attributes.push(Attribute { name: (*column).into(), value, origin });
    }

    /// The names that its attributes ask for.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|a| &*a.name)
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let text = |value: &Value| match value {
            Value::Text(text) | Value::Json(text) => text.len(),
            _ => 0,
        };
        let one = |a: &Attribute| size_of::<Attribute>() + a.name.len() + text(&a.value);
        self.fixed.iter().chain(&self.attributes).map(one).sum()
    }

    /// The values that have their plain names unless a row has them.
    pub(super) fn plain(&self) -> HashMap<&str, &Value> {
        let mut plain: HashMap<&str, (Origin, &Value)> = HashMap::new();
        for a in &self.attributes {
            let known = plain.entry(&a.name).or_insert((a.origin, &a.value));
            if a.origin < known.0 {
                *known = (a.origin, &a.value);
            }
        }
        plain.into_iter().map(|(name, (_, value))| (name, value)).collect()
    }

    /// The entity. `rows`: names that stand at the row level, which it gives up.
    pub(crate) fn build(mut self, rows: &HashSet<&str>) -> Entity {
        // By origin, which is also the order of precedence; stable, so the first value stays.
        self.attributes.sort_by(|a, b| (a.origin, &a.name).cmp(&(b.origin, &b.name)));
        self.attributes.dedup_by(|b, a| a.origin == b.origin && a.name == b.name);
        let mut taken: HashSet<Arc<str>> = self.fixed.iter().map(|a| a.name.clone()).collect();
        let mut out = self.fixed;
        let mut overflow: Vec<Attribute> = Vec::new();
        for mut attribute in self.attributes {
            if out.len() >= COLUMNS_MAX || attribute.name.len() > NAME_BYTES_MAX {
                overflow.push(attribute);
                continue;
            }
            while rows.contains(&*attribute.name) || taken.contains(&attribute.name) {
                let prefix = attribute.origin.as_str();
                attribute.name = format!("{prefix}.{}", attribute.name).into();
            }
            taken.insert(attribute.name.clone());
            out.push(attribute);
        }
        for part in overflow.chunk_by(|a, b| a.origin == b.origin) {
            let Some(origin) = part.first().map(|a| a.origin) else { continue };
            let mut json = String::new();
            build::json_object(part.iter().map(|a| (&*a.name, (&a.value).into())), &mut json);
            let mut name = format!("{}.attributes", origin.as_str());
            while rows.contains(name.as_str()) || taken.contains(name.as_str()) {
                name = format!("{}.{name}", origin.as_str());
            }
            out.push(Attribute { name: name.into(), value: Value::Json(json.into()), origin });
        }
        Entity::new(out)
    }
}
