//! Scopes, and what a name means in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{AccessExpr, CaseWhen, Expr, Ident, Subscript, Value};

use super::{Aliases, QueryError, Resolver, Result, Shape, nearest, place, quoted};

/// A table, CTE or subquery in FROM.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    /// What may stand in front of its columns; a metric has several spellings.
    pub(super) spellings: Vec<Vec<String>>,
    /// What stands in front of its columns after the pass.
    pub(super) qualifier: Option<String>,
    pub(super) shape: Arc<Shape>,
    /// False for table functions, whose columns only the planner knows.
    pub(super) known: bool,
    /// Entry of `Resolver::tables` where unknown names go; `None` for closed relations.
    pub(super) open: Option<String>,
}

impl Relation {
    pub(super) fn derived(alias: Option<&str>, shape: Arc<Shape>) -> Self {
        Self {
            spellings: alias.iter().map(|a| vec![(*a).to_owned()]).collect(),
            qualifier: alias.map(str::to_owned),
            shape,
            known: true,
            open: None,
        }
    }

    /// What is left of `parts` behind a spelling of this relation.
    fn behind<'p>(&self, parts: &'p [Ident]) -> Option<&'p [Ident]> {
        self.spellings
            .iter()
            .filter(|s| s.len() < parts.len())
            .filter(|s| s.iter().zip(parts).all(|(s, p)| *s == p.value))
            .max_by_key(|s| s.len())
            .map(|s| &parts[s.len()..])
    }

    /// Name of the relation for messages.
    pub(super) fn label(&self) -> &str {
        self.qualifier.as_deref().unwrap_or("the subquery")
    }
}

/// The relations of one SELECT.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) relations: Vec<Relation>,
    /// Columns merged by USING or NATURAL: one meaning although two tables have them.
    pub(super) using: BTreeSet<String>,
    /// Those of them where an outer join may leave the first table's column NULL.
    pub(super) outer: BTreeSet<String>,
    /// Explicit aliases of the select list.
    pub(super) aliases: BTreeSet<String>,
}

impl Scope {
    pub(super) fn of(relation: Relation) -> Self {
        Self { relations: vec![relation], ..Self::default() }
    }

    fn known(&self) -> bool {
        self.relations.iter().all(|r| r.known)
    }

    /// A column merged by USING or NATURAL: what the first table says that says anything. `None`
    /// if that is always the first, as the planner takes it.
    pub(super) fn merged(&self, name: &str) -> Option<Expr> {
        if !self.outer.contains(name) {
            return None;
        }
        let has = self.relations.iter().filter(|r| r.shape.has(name));
        let columns: Option<Vec<Expr>> = has
            .map(|r| {
                let qualifier = r.qualifier.as_ref()?;
                Some(Expr::CompoundIdentifier(vec![quoted(qualifier), quoted(name)]))
            })
            .collect();
        let mut columns = columns?;
        let last = columns.pop()?;
        let when = |column: Expr| CaseWhen {
            condition: Expr::IsNotNull(Box::new(column.clone())),
            result: column,
        };
        Some(Expr::Case {
            case_token: AttachedToken::empty(),
            end_token: AttachedToken::empty(),
            operand: None,
            conditions: columns.into_iter().map(when).collect(),
            else_result: Some(Box::new(last)),
        })
    }
}

/// One thing that a compound name can mean.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Meaning {
    qualifier: Option<String>,
    column: String,
    fields: Vec<String>,
}

impl Meaning {
    fn text(&self) -> String {
        let mut text = match &self.qualifier {
            Some(q) => format!("{}.{}", quoted(q), quoted(&self.column)),
            None => quoted(&self.column).to_string(),
        };
        for field in &self.fields {
            text.push_str(&format!("['{field}']"));
        }
        text
    }

    fn expr(&self) -> Expr {
        let column = match &self.qualifier {
            Some(q) => Expr::CompoundIdentifier(vec![quoted(q), quoted(&self.column)]),
            None => Expr::Identifier(quoted(&self.column)),
        };
        if self.fields.is_empty() {
            return column;
        }
        let index = |f: &String| {
            let index = Expr::value(Value::SingleQuotedString(f.clone()));
            AccessExpr::Subscript(Subscript::Index { index })
        };
        Expr::CompoundFieldAccess {
            root: Box::new(column),
            access_chain: self.fields.iter().map(index).collect(),
        }
    }
}

/// `parts` as one dotted name; quoted parts are never joined.
fn joined(parts: &[Ident]) -> Option<String> {
    match parts {
        [one] => Some(one.value.clone()),
        many => many.iter().all(|p| p.quote_style.is_none()).then(|| written(many)),
    }
}

/// `parts` as they were written.
fn shown(parts: &[Ident]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// `parts` without quotes.
fn written(parts: &[Ident]) -> String {
    parts.iter().map(|p| p.value.as_str()).collect::<Vec<_>>().join(".")
}

/// The longest dotted column at the start of `parts`, what follows being struct fields of it.
fn longest(parts: &[Ident], relation: &Relation) -> Option<(String, Vec<String>)> {
    (1..=parts.len()).rev().find_map(|n| {
        let name = joined(&parts[..n])?;
        let rest: Vec<String> = parts[n..].iter().map(|p| p.value.clone()).collect();
        let fits = match relation.shape.columns.get(&name) {
            None => rest.is_empty() && relation.shape.keys.contains(&name),
            Some(None) => true,
            Some(Some(t)) => has_field(t, &rest),
        };
        fits.then_some((name, rest))
    })
}

fn has_field(t: &DataType, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match t {
        DataType::Struct(fields) => {
            fields.iter().any(|f| f.name() == first && has_field(f.data_type(), rest))
        }
        _ => false,
    }
}

impl Resolver<'_> {
    /// The meaning of a name of one part. `None`: it stays as it is.
    pub(super) fn single(&mut self, ident: &Ident) -> Result<Option<Expr>> {
        let name = &ident.value;
        let own = Some(Expr::Identifier(quoted(name)));
        let alias = self.scopes.last().is_some_and(|s| s.aliases.contains(name));
        if alias && self.aliases == Aliases::First {
            return Ok(own);
        }
        for (i, scope) in self.scopes.iter().rev().enumerate() {
            let hits: Vec<&Relation> =
                scope.relations.iter().filter(|r| r.shape.has(name)).collect();
            if hits.len() > 1 && !scope.using.contains(name) {
                let both = hits.iter().map(|r| meaning(r, name.clone(), Vec::new()));
                return Err(ambiguous(name, ident, both.collect()));
            }
            if hits.len() > 1
                && let Some(merged) = scope.merged(name)
            {
                return Ok(Some(merged));
            }
            if !hits.is_empty() || !scope.known() {
                return Ok(own);
            }
            if i == 0 && alias && self.aliases == Aliases::Last {
                return Ok(own);
            }
        }
        if alias {
            return Err(QueryError::Name {
                message: format!(
                    "`{name}` is an alias of this SELECT and not seen here: write the expression \
                     again, or put the SELECT into a subquery"
                ),
                position: place(ident),
            });
        }
        self.missing(std::slice::from_ref(ident)).map(Some)
    }

    /// The meaning of a dotted name. `None`: it stays as it is.
    pub(super) fn compound(&mut self, parts: &[Ident]) -> Result<Option<Expr>> {
        let whole = joined(parts);
        let alias = whole
            .as_ref()
            .filter(|w| self.scopes.last().is_some_and(|s| s.aliases.contains(w.as_str())));
        if let (Some(alias), Aliases::First) = (alias, self.aliases) {
            return Ok(Some(Expr::Identifier(quoted(alias))));
        }
        for scope in self.scopes.iter().rev() {
            let mut meanings: Vec<Meaning> = Vec::new();
            for relation in &scope.relations {
                let rest = relation.behind(parts);
                for parts in rest.into_iter().chain([parts]) {
                    if let Some((column, fields)) = longest(parts, relation) {
                        meanings.push(meaning(relation, column, fields));
                    }
                }
            }
            // A column as a whole goes before a struct field.
            if meanings.iter().any(|m| m.fields.is_empty()) {
                meanings.retain(|m| m.fields.is_empty());
            }
            meanings.sort();
            meanings.dedup();
            match meanings.as_slice() {
                [] if !scope.known() => return Ok(None),
                [] => {}
                [one] => return Ok(Some(one.expr())),
                [first, rest @ ..] => {
                    let merged = rest.iter().all(|m| m.column == first.column)
                        && scope.using.contains(&first.column);
                    if let Some(merged) = scope.merged(&first.column).filter(|_| merged) {
                        return Ok(Some(merged));
                    }
                    if merged {
                        let bare = Meaning { qualifier: None, ..first.clone() };
                        return Ok(Some(bare.expr()));
                    }
                    return Err(ambiguous(&written(parts), &parts[0], meanings));
                }
            }
        }
        if let (Some(alias), Aliases::Last) = (alias, self.aliases) {
            return Ok(Some(Expr::Identifier(quoted(alias))));
        }
        self.missing(parts).map(Some)
    }

    /// A name that nothing in scope has: a NULL column of an open table, else an error.
    fn missing(&mut self, parts: &[Ident]) -> Result<Expr> {
        let unknown = |name: &str, place_of: &Ident, at: &str, near: Option<&str>| {
            let mut message = format!("unknown column `{name}`{at}");
            if let Some(near) = near {
                message.push_str(&format!("; did you mean `{near}`?"));
            }
            QueryError::Name { message, position: place(place_of) }
        };
        let named = self.scopes.iter().rev().find_map(|scope| {
            scope.relations.iter().find_map(|r| r.behind(parts).map(|rest| (r, rest)))
        });
        let anywhere = || {
            self.scopes.iter().rev().find_map(|scope| {
                scope.relations.iter().find(|r| r.open.is_some()).map(|r| (r, parts))
            })
        };
        let Some((relation, rest)) = named.or_else(anywhere) else {
            let names = self.scopes.iter().flat_map(|s| &s.relations);
            let names = names.flat_map(|r| r.shape.columns.keys()).map(String::as_str);
            let near = nearest(&written(parts), names);
            return Err(unknown(&shown(parts), &parts[0], "", near));
        };
        let names = relation.shape.columns.keys().chain(&relation.shape.keys);
        let near = nearest(&written(rest), names.map(String::as_str)).map(str::to_owned);
        let (Some(open), Some(name)) = (&relation.open, joined(rest)) else {
            let at = format!(" in `{}`", relation.label());
            // In quotes a name is whole, also one with dots.
            let split = rest.len() > 1 && rest.iter().any(|p| p.quote_style.is_some());
            let near = near.map(|n| if split { quoted(&n).to_string() } else { n });
            return Err(unknown(&shown(rest), &parts[0], &at, near.as_deref()));
        };
        let expr = meaning(relation, name.clone(), Vec::new()).expr();
        let open = open.clone();
        self.unseen.insert(expr.to_string());
        let table = self.tables.entry(open.clone()).or_default();
        if table.missing.insert(name.clone()) {
            let mut warning = if relation.shape.open {
                format!("`{name}` is no column of `{open}`; its values in `attributes` are read")
            } else {
                format!("`{name}` is in no row of `{open}` and reads as NULL")
            };
            if let Some(near) = near {
                warning.push_str(&format!("; did you mean `{near}`?"));
            }
            self.warnings.push(warning);
        }
        Ok(expr)
    }
}

fn meaning(relation: &Relation, column: String, fields: Vec<String>) -> Meaning {
    Meaning { qualifier: relation.qualifier.clone(), column, fields }
}

fn ambiguous(name: &str, ident: &Ident, meanings: Vec<Meaning>) -> QueryError {
    let both: Vec<String> = meanings.iter().map(|m| format!("`{}`", m.text())).collect();
    QueryError::Name {
        message: format!("`{name}` can mean {}; write one of them", both.join(" or ")),
        position: place(ident),
    }
}
