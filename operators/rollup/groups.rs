//! Groups of series: which entities fall together, and what their rows are.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use hashbrown::HashMap;
use weir_pipeline::batch::Batch;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::{ATTRIBUTES, META_JSON, Signal};

use super::{COLUMNS, Shape};
use crate::metered;

/// Attributes that say what a metric is.
pub(super) const IDENTITY: [&str; 6] =
    ["metric.name", "metric.type", "metric.unit", "metric.bounds", "le", "quantile"];

/// Of that nothing is told: what is given are increases, whatever the input was.
const TEMPORALITY: &str = "metric.temporality";

/// Entity tables whose groups are remembered.
const TABLES_MAX: usize = 8;

/// No series, or no group, yet.
pub(super) const NONE: u32 = u32::MAX;

/// Which labels groups have.
#[derive(Debug)]
pub(super) enum Labels {
    Keep(BTreeSet<String>),
    Drop(BTreeSet<String>),
}

impl Labels {
    fn has(&self, attribute: &Attribute) -> bool {
        let name = &*attribute.name;
        if name == TEMPORALITY {
            return false;
        }
        IDENTITY.contains(&name)
            || match self {
                Self::Keep(names) => names.contains(name),
                Self::Drop(names) => !names.contains(name),
            }
    }
}

/// A name, or how it begins or ends.
#[derive(Debug)]
pub(super) enum Pattern {
    Name(String),
    Start(String),
    End(String),
}

impl Pattern {
    /// `None` if there is a `*` anywhere but at one end.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let pattern = if let Some(rest) = text.strip_prefix('*') {
            Self::End(rest.to_owned())
        } else if let Some(rest) = text.strip_suffix('*') {
            Self::Start(rest.to_owned())
        } else {
            Self::Name(text.to_owned())
        };
        let (Self::Name(rest) | Self::Start(rest) | Self::End(rest)) = &pattern;
        (!rest.contains('*')).then_some(pattern)
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(text) => name == text,
            Self::Start(text) => name.starts_with(text.as_str()),
            Self::End(text) => name.ends_with(text.as_str()),
        }
    }
}

/// What a series is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter {
        delta: bool,
    },
    Histogram {
        delta: bool,
    },
    /// A histogram that does not say from when on it counts.
    Unsure,
}

impl Kind {
    fn of(entity: &Entity, counters: &[Pattern]) -> Self {
        let text = |name: &str| match entity.get(name) {
            Some(Value::Text(text)) => Some(&**text),
            _ => None,
        };
        let temporality = text(TEMPORALITY);
        let delta = temporality == Some("delta");
        match text("metric.type") {
            Some("counter") => Self::Counter { delta },
            Some("summary") => Self::Histogram { delta },
            Some("histogram" | "exponential_histogram") => match temporality {
                Some("delta" | "cumulative") => Self::Histogram { delta },
                _ => Self::Unsure,
            },
            _ => {
                let named = text("metric.name")
                    .is_some_and(|name| counters.iter().any(|pattern| pattern.matches(name)));
                if named { Self::Counter { delta } } else { Self::Gauge }
            }
        }
    }
}

/// The column of a label, which must not be called like one of the rows.
pub(super) fn label(name: &str) -> Cow<'_, str> {
    if COLUMNS.contains(&name) { format!("label.{name}").into() } else { name.into() }
}

/// Columns of rows that are labels: those that are asked for, texts and booleans, but no columns that
/// metrics have anyway.
pub(super) fn labels_of_rows(batch: &Batch, labels: &Labels) -> Vec<(String, ArrayRef)> {
    let schema = batch.rows().schema();
    let columns = schema.fields().iter().zip(batch.rows().columns());
    let canonical = |name: &str| Signal::Metrics.row_columns().iter().any(|(n, _)| *n == name);
    let label = columns.filter(|(field, array)| {
        let name = field.name().as_str();
        let asked = matches!(labels, Labels::Keep(names) if names.contains(name));
        let says = matches!(array.data_type(), DataType::Utf8 | DataType::Boolean)
            && !field.metadata().contains_key(META_JSON);
        !canonical(name) && name != ATTRIBUTES && (asked || says)
    });
    label.map(|(field, array)| (field.name().clone(), array.clone())).collect()
}

/// Where the rows of one entity go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) fingerprint: u128,
    /// Of a cumulative one, if known: a hint, to be looked up without it.
    pub(super) series: u32,
}

/// All groups that something refers to, by number.
#[derive(Debug, Default)]
pub(super) struct Groups {
    numbers: HashMap<u128, u32>,
    entities: Vec<Arc<Entity>>,
    /// Targets by entity, of the tables used last. A cache.
    tables: Vec<(u64, Vec<Target>)>,
}

impl Groups {
    pub(super) fn len(&self) -> usize {
        self.entities.len()
    }

    pub(super) fn entity(&self, group: u32) -> &Arc<Entity> {
        &self.entities[group as usize]
    }

    /// The number of the group that is this entity.
    pub(super) fn number(&mut self, entity: Entity) -> u32 {
        let next = self.entities.len() as u32;
        let number = *self.numbers.entry(entity.fingerprint()).or_insert(next);
        if number == next {
            self.entities.push(Arc::new(entity));
        }
        number
    }

    fn target(&mut self, entity: &Entity, shape: &Shape) -> Target {
        let kept = entity.attributes().iter().filter(|a| shape.labels.has(a));
        let renamed = kept.map(|a| match label(&a.name) {
            Cow::Borrowed(_) => a.clone(),
            Cow::Owned(name) => {
                Attribute { name: name.into(), value: a.value.clone(), origin: Origin::Label }
            }
        });
        let group = self.number(Entity::new(renamed.collect()));
        let kind = Kind::of(entity, &shape.counters);
        Target { kind, group, fingerprint: entity.fingerprint(), series: NONE }
    }

    /// The targets of the entities of a table, to be given back by [`Groups::keep`].
    pub(super) fn targets(&mut self, table: &EntityTable, shape: &Shape) -> Vec<Target> {
        let at = self.tables.iter().position(|(id, _)| *id == table.id());
        let mut targets = at.map(|at| self.tables.remove(at).1).unwrap_or_default();
        for entity in table.since(targets.len()) {
            targets.push(self.target(&entity, shape));
        }
        targets
    }

    /// The targets of rows some of whose labels differ from row to row, and which of them each row
    /// has.
    pub(super) fn of_rows(
        &mut self,
        batch: &Batch,
        labels: &[(String, ArrayRef)],
        shape: &Shape,
    ) -> (Vec<Target>, Vec<u32>) {
        let mut targets: Vec<Target> = Vec::new();
        let mut known: HashMap<u128, u32> = HashMap::new();
        let of = |row: usize| {
            let own = labels.iter().filter_map(|(name, array)| metered::label(name, array, row));
            let mut all: Vec<Attribute> = own.collect();
            if let Some(entities) = batch.entities() {
                // What a row says goes first.
                let entity = entities.table.get(entities.keys.value(row));
                all.extend(entity.attributes().iter().cloned());
            }
            let entity = Entity::new(all);
            *known.entry(entity.fingerprint()).or_insert_with(|| {
                targets.push(self.target(&entity, shape));
                targets.len() as u32 - 1
            })
        };
        let rows = (0..batch.num_rows()).map(of).collect();
        (targets, rows)
    }

    pub(super) fn keep(&mut self, table: &EntityTable, targets: Vec<Target>) {
        self.tables.insert(0, (table.id(), targets));
        self.tables.truncate(TABLES_MAX);
    }

    /// Lets go of the groups that are not in `used`. Gives the new number of each old one.
    pub(super) fn retain(&mut self, used: &[bool]) -> Vec<u32> {
        self.tables.clear();
        let old = std::mem::take(&mut self.entities);
        self.numbers.clear();
        let mut numbers = Vec::with_capacity(old.len());
        for (entity, used) in old.into_iter().zip(used) {
            if !used {
                numbers.push(NONE);
                continue;
            }
            let number = self.entities.len() as u32;
            self.numbers.insert(entity.fingerprint(), number);
            self.entities.push(entity);
            numbers.push(number);
        }
        numbers
    }
}
