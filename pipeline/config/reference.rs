//! Reference pages and the editor's schema, from the tables of components.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use crate::backlog;
use crate::component::{Components, Kind, module_doc};

/// The reference page of a type: what its module says, and every field with its type, default and
/// meaning. Markdown; `weir describe` prints it, `docs/` holds it.
pub fn reference<P: ?Sized>(kind: &Kind<P>) -> String {
    reference_page(kind.name, kind.source, &(kind.schema)())
}

/// The same for what is no component.
pub fn reference_page(name: &str, source: &str, schema: &schemars::Schema) -> String {
    let mut page = format!("# {name}\n\n{}\n", module_doc(source).trim());
    let root = schema.as_value();
    let mut rows = Vec::new();
    fields(root, root, "", 0, &mut rows);
    page.push_str("\n## Fields\n\n");
    if rows.is_empty() {
        page.push_str("None of its own.\n");
        return page;
    }
    page.push_str("| field | type | default | |\n|---|---|---|---|\n");
    for [name, kind, default, about] in rows {
        let _ = writeln!(page, "| `{name}` | {kind} | {default} | {about} |");
    }
    page
}

/// A JSON schema of pipeline files, for editors: completion and checks while typing.
pub fn pipeline_schema(components: &Components) -> Json {
    let mut defs = Map::new();
    let inputs = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
    let engine = |keys: &[(&str, Json)]| {
        Map::from_iter(keys.iter().map(|(k, v)| ((*k).to_owned(), v.clone())))
    };
    let on_error = json!({ "enum": ["reject", "keep"], "default": "reject" });
    let was = json!({ "type": "string" });
    let operator =
        engine(&[("inputs", inputs.clone()), ("on_error", on_error), ("was", was.clone())]);
    let backlog = schemars::schema_for!(backlog::SinkConfig).to_value();
    let sink = engine(&[("inputs", inputs), ("was", was), ("backlog", backlog)]);
    let sources: Vec<Json> =
        components.sources.iter().map(|k| with_keys(k, true, &Map::new(), &mut defs)).collect();
    let operators: Vec<Json> =
        components.operators.iter().map(|k| with_keys(k, true, &operator, &mut defs)).collect();
    let sinks: Vec<Json> =
        components.sinks.iter().map(|k| with_keys(k, true, &sink, &mut defs)).collect();
    let lookups: Vec<Json> =
        components.lookups.iter().map(|k| with_keys(k, true, &Map::new(), &mut defs)).collect();
    let alert = with_keys(components.alert, false, &operator, &mut defs);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Weir pipeline file",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string" },
            "from": { "type": "string", "default": "now" },
            "backlog": schemars::schema_for!(backlog::PipelineConfig).to_value(),
            "sources": { "type": "object", "additionalProperties": { "oneOf": sources } },
            "lookups": { "type": "object", "additionalProperties": { "oneOf": lookups } },
            "operators": { "type": "object", "additionalProperties": { "oneOf": operators } },
            "sinks": { "type": "object", "additionalProperties": { "oneOf": sinks } },
            "alerts": { "type": "object", "additionalProperties": alert },
            "tests": { "type": "array", "items": { "type": "object" } },
        },
        "$defs": defs,
    })
}

/// The schema of a component with the engine's keys beside its own.
fn with_keys<P: ?Sized>(
    kind: &Kind<P>,
    typed: bool,
    engine: &Map<String, Json>,
    defs: &mut Map<String, Json>,
) -> Json {
    let mut schema = (kind.schema)().as_value().clone();
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("$schema");
    if let Some(Json::Object(own)) = object.remove("$defs") {
        defs.extend(own);
    }
    let mut properties = Map::new();
    let mut required = Vec::new();
    if typed {
        properties.insert("type".into(), json!({ "const": kind.name, "description": kind.about }));
        required.push(Json::from("type"));
    }
    if engine.contains_key("inputs") {
        required.push("inputs".into());
    }
    properties.extend(engine.clone());
    if let Some(Json::Object(own)) = object.remove("properties") {
        properties.extend(own);
    }
    if let Some(Json::Array(own)) = object.remove("required") {
        required.extend(own);
    }
    object.insert("properties".into(), properties.into());
    object.insert("required".into(), required.into());
    schema
}

/// The fields of a table, those of nested tables behind their own with a dotted name.
fn fields(root: &Json, schema: &Json, path: &str, depth: usize, rows: &mut Vec<[String; 4]>) {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let mut ordered: Vec<(&String, &Json)> = properties.iter().collect();
    ordered.sort_by_key(|(name, _)| (!required.contains(&name.as_str()), *name));
    for (name, field) in ordered {
        let name_in = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let target = resolve(root, field);
        let about = field.get("description").or_else(|| target.get("description"));
        let about = about.and_then(Json::as_str).unwrap_or_default().replace('\n', " ");
        let default = match field.get("default") {
            Some(Json::Null) | None if required.contains(&name.as_str()) => "required".to_owned(),
            Some(Json::Null) | None => String::new(),
            Some(default) => format!("`{default}`"),
        };
        let about = about.replace('|', "\\|");
        rows.push([name_in.clone(), type_name(root, target, 0), default, about]);
        // Tables within tables end; a route within a route would not.
        if depth < 2 {
            fields(root, target, &name_in, depth + 1, rows);
        }
    }
}

fn resolve<'a>(root: &'a Json, schema: &'a Json) -> &'a Json {
    let mut schema = schema;
    for _ in 0..8 {
        let target = schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix('#'));
        if let Some(found) = target.and_then(|t| root.pointer(t)) {
            schema = found;
            continue;
        }
        let branches = schema.get("anyOf").and_then(Json::as_array);
        let real: Vec<&Json> = branches
            .into_iter()
            .flatten()
            .filter(|b| b.get("type").and_then(Json::as_str) != Some("null"))
            .collect();
        let [only] = real.as_slice() else { return schema };
        schema = only;
    }
    schema
}

fn type_name(root: &Json, schema: &Json, depth: usize) -> String {
    let schema = resolve(root, schema);
    match schema.get("format").and_then(Json::as_str) {
        Some("weir-duration") => return "duration".into(),
        Some("weir-size") => return "size".into(),
        Some("weir-secret") => return "secret (`env:NAME`, `file:PATH`)".into(),
        Some("weir-header") => return "text or secret".into(),
        _ => {}
    }
    let constant = |s: &Json| s.get("const").map(|c| format!("`{c}`"));
    if let Some(all) = schema.get("enum").and_then(Json::as_array) {
        return all.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(" or ");
    }
    if let Some(one) = constant(schema) {
        return one;
    }
    let branches = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array);
    if let Some(branches) = branches.filter(|_| depth < 4) {
        let mut names: Vec<String> =
            branches.iter().map(|b| type_name(root, b, depth + 1)).collect();
        names.dedup();
        return names.join(" or ");
    }
    let word = |t: &str| match t {
        "string" => "text".to_owned(),
        "array" => match schema.get("items").filter(|_| depth < 4) {
            Some(items) => format!("list of {}", type_name(root, items, depth + 1)),
            None => "list".to_owned(),
        },
        "object" => match schema.get("additionalProperties").filter(|a| a.is_object()) {
            Some(values) if depth < 4 => {
                format!("table of {}", type_name(root, values, depth + 1))
            }
            _ => "table".to_owned(),
        },
        other => other.to_owned(),
    };
    match schema.get("type") {
        Some(Json::String(one)) => word(one),
        Some(Json::Array(many)) => {
            let names = many.iter().filter_map(Json::as_str).filter(|t| *t != "null").map(word);
            names.collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}
