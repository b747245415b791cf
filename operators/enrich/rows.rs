//! Adds what was found to rows, or to the entities of rows.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::take;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value, build_column};
use weir_pipeline::lookup::Canonical;
use weir_pipeline::signal::Signal;

use super::OnMissing;
use super::matching::{Found, Matcher, field};
use crate::columns::{nullable, with_columns};
use crate::entities::{Entities, Outcome};

/// Once for each entity.
pub(super) fn by_entity(
    matcher: &Matcher,
    entities: &mut Entities,
    batch: &Batch,
    out: &mut Output,
) -> Result<(), OperatorError> {
    entities.process(batch, out, |entity, to| enriched(matcher, batch.signal(), entity, to))
}

fn enriched(matcher: &Matcher, signal: &Signal, entity: &Entity, to: &EntityTable) -> Outcome {
    let found = match matcher.entity(entity) {
        Ok(found) => found,
        Err(error) => return Outcome::Failed(Box::new(error)),
    };
    if !found.is_some(0) {
        let text = |name: &str| entity.get(name).map(|v| v.to_text().into_owned());
        match matcher.on_missing {
            OnMissing::Keep => {}
            OnMissing::Drop => return Outcome::Dropped,
            OnMissing::Error => return Outcome::Failed(Box::new(matcher.missing(text))),
        }
    }
    let kept = entity.attributes().iter();
    let kept = kept.filter(|a| !matcher.take.iter().any(|(new, _)| **new == *a.name));
    let mut attributes: Vec<Attribute> = kept.cloned().collect();
    for (new, column) in &matcher.take {
        let Some(value) = value(matcher, &found, column) else { continue };
        let origin = match (entity.attribute(new), signal) {
            (Some(attribute), _) => attribute.origin,
            (None, Signal::Metrics) => Origin::Label,
            (None, _) => Origin::Resource,
        };
        attributes.push(Attribute { name: new.as_str().into(), value, origin });
    }
    Outcome::intern(to, attributes)
}

/// What was found of the only row, in one column of the table.
fn value(matcher: &Matcher, found: &Found, column: &str) -> Option<Value> {
    match found {
        Found::Records(records) => field(records[0].as_ref()?, column),
        Found::Rows(rows) => {
            let values = matcher.table.table()?.column_by_name(column)?;
            Value::of_array(values, rows[0]? as usize)
        }
    }
}

/// Row by row.
pub(super) fn by_row(
    matcher: &Matcher,
    entities: &mut Entities,
    batch: &Batch,
    out: &mut Output,
) -> Result<(), OperatorError> {
    let found = matcher.rows(batch)?;
    let hit: BooleanArray = (0..batch.num_rows()).map(|row| Some(found.is_some(row))).collect();
    let enriched = enriched_rows(matcher, entities, batch, &found)?;
    if matcher.on_missing == OnMissing::Keep || hit.true_count() == hit.len() {
        out.emit(enriched);
        return Ok(());
    }
    if matcher.on_missing == OnMissing::Drop {
        out.dropped += (hit.len() - hit.true_count()) as u64;
    } else {
        let missing = batch.filter(&arrow::compute::not(&hit)?)?;
        let reasons = reasons(matcher, &missing);
        out.reject(missing, reasons);
    }
    out.emit(enriched.filter(&hit)?);
    Ok(())
}

/// Why nothing was found for each of these rows.
fn reasons(matcher: &Matcher, missing: &Batch) -> Vec<OperatorError> {
    let texts: Vec<(&String, Option<Canonical>)> = matcher
        .asked
        .columns()
        .map(|name| (name, missing.array(name).and_then(|a| Canonical::of(&a).ok())))
        .collect();
    let reason = |row: usize| {
        matcher.missing(|name| {
            let (_, texts) = texts.iter().find(|(n, _)| *n == name)?;
            texts.as_ref()?.get(row).map(str::to_owned)
        })
    };
    (0..missing.num_rows()).map(reason).collect()
}

fn enriched_rows(
    matcher: &Matcher,
    entities: &mut Entities,
    batch: &Batch,
    found: &Found,
) -> Result<Batch, OperatorError> {
    let mut added = Vec::with_capacity(matcher.take.len());
    for (new, column) in &matcher.take {
        let Some(array) = gathered(matcher, found, column)? else { continue };
        if array.null_count() < array.len() {
            added.push((nullable(new, array.data_type().clone()), array));
        }
    }
    let names = matcher.take.iter().map(|(new, _)| new.as_str());
    let rows = with_columns(batch, names, added)?.rows().clone();
    let keys = match batch.entities() {
        Some(keys) => {
            let names = matcher.take.iter().map(|(new, _)| new);
            let names: Vec<String> = names.filter(|n| keys.table.has(n)).cloned().collect();
            match names.is_empty() {
                true => Some(keys.clone()),
                false => Some(entities.without(keys, &names)?),
            }
        }
        None => None,
    };
    let (signal, tenant) = (batch.signal().clone(), batch.tenant().clone());
    Ok(Batch::new(signal, tenant, rows, keys, batch.runs().clone())?)
}

/// The values of a column of the table for each row.
fn gathered(
    matcher: &Matcher,
    found: &Found,
    column: &str,
) -> Result<Option<ArrayRef>, OperatorError> {
    Ok(match found {
        Found::Rows(rows) => match matcher.table.table().and_then(|t| t.column_by_name(column)) {
            Some(values) => Some(take(values, &UInt32Array::from(rows.clone()), None)?),
            None => None,
        },
        Found::Records(records) => {
            let values: Vec<Option<Value>> =
                records.iter().map(|r| field(r.as_ref()?, column)).collect();
            Some(build_column(values.iter().map(Option::as_ref)).values)
        }
    })
}
