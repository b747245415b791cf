//! The FROM clause: which relations a SELECT has.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Ident, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor, TableWithJoins,
};

use super::lookup::{Relation, Scope};
use super::{
    Aliases, QueryError, Resolver, Result, Shape, TableUse, nearest, place, quoted, renamed,
};
use crate::query::guard::parts;

/// The table of metrics: `metrics.<name>` reads one.
pub(super) const METRICS: &str = "metrics";
/// Where tables and columns are listed.
pub(super) const INFORMATION_SCHEMA: &str = "information_schema";

impl Resolver<'_> {
    /// Adds the relations of one FROM item to `scope`. Join conditions are left for when all
    /// relations are known.
    pub(super) fn table_with_joins(
        &mut self,
        from: &mut TableWithJoins,
        scope: &mut Scope,
    ) -> Result<()> {
        self.factor(&mut from.relation, scope)?;
        for join in &mut from.joins {
            let left: BTreeSet<String> =
                scope.relations.iter().flat_map(|r| r.shape.columns.keys().cloned()).collect();
            self.factor(&mut join.relation, scope)?;
            let outer = matches!(
                join.join_operator,
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
            );
            match constraint(&mut join.join_operator) {
                Some(JoinConstraint::Using(names)) => {
                    for name in names {
                        let joined = parts(name)?
                            .iter()
                            .map(|i| i.value.as_str())
                            .collect::<Vec<_>>()
                            .join(".");
                        *name = ObjectName::from(vec![quoted(&joined)]);
                        if outer {
                            scope.outer.insert(joined.clone());
                        }
                        scope.using.insert(joined);
                    }
                }
                Some(JoinConstraint::Natural) => {
                    let right = scope.relations.last().map(|r| r.shape.clone());
                    let right = right.unwrap_or_default();
                    let both = left.into_iter().filter(|n| right.has(n));
                    let both: BTreeSet<String> = both.collect();
                    if outer {
                        scope.outer.extend(both.iter().cloned());
                    }
                    scope.using.extend(both);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn factor(&mut self, factor: &mut TableFactor, scope: &mut Scope) -> Result<()> {
        let relation = match factor {
            TableFactor::Table { name, alias, args: Some(args), .. } => {
                self.beside(scope, |this| this.visit(args, Aliases::Unseen))?;
                let own = name.to_string();
                function(alias.as_ref(), Some(&own))
            }
            TableFactor::Table { name, alias, .. } => self.table(name, alias)?,
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let shape = if *lateral {
                    self.beside(scope, |this| this.query(subquery))?
                } else {
                    self.query(subquery)?
                };
                let names = column_names(alias.as_ref());
                let alias = alias.as_ref().map(|a| a.name.value.as_str());
                Relation::derived(alias, renamed(shape, &names))
            }
            TableFactor::UNNEST { array_exprs, alias, .. } => {
                self.beside(scope, |this| this.visit(array_exprs, Aliases::Unseen))?;
                function(alias.as_ref(), None)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                let mut inner = Scope::default();
                self.table_with_joins(table_with_joins, &mut inner)?;
                self.scopes.push(inner);
                let done = self.join_conditions(table_with_joins);
                let inner = self.scopes.pop().unwrap_or_default();
                done?;
                scope.relations.extend(inner.relations);
                scope.using.extend(inner.using);
                scope.outer.extend(inner.outer);
                return Ok(());
            }
            other => {
                return Err(QueryError::Refused(format!("`{other}` is not understood in FROM")));
            }
        };
        scope.relations.push(relation);
        Ok(())
    }

    /// Resolves something that sees the relations to its left.
    fn beside<T>(&mut self, scope: &Scope, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scopes.push(scope.clone());
        let done = work(self);
        self.scopes.pop();
        done
    }

    /// A table, a CTE, one metric, or a table of `information_schema`.
    fn table(&mut self, name: &mut ObjectName, alias: &mut Option<TableAlias>) -> Result<Relation> {
        let idents = parts(name)?;
        let names = column_names(alias.as_ref());
        let alias_name = alias.as_ref().map(|a| a.name.value.clone());
        if let [one] = idents.as_slice()
            && let Some((_, shape)) = self.ctes.iter().rev().find(|(n, _)| *n == one.value)
        {
            let label = alias_name.unwrap_or_else(|| one.value.clone());
            return Ok(Relation::derived(Some(&label), renamed(shape.clone(), &names)));
        }
        let (key, table, shape, spellings) = self.stored(&idents)?;
        let open = !key.starts_with(INFORMATION_SCHEMA) && names.is_empty() && !shape.closed;
        let open = open.then(|| key.clone());
        let metric = (key != table).then(|| joined(&idents[1..]));
        *name = ObjectName::from(vec![quoted(&key)]);
        self.tables.entry(key.clone()).or_insert_with(|| TableUse {
            table,
            metric,
            missing: BTreeSet::new(),
        });
        Ok(Relation {
            spellings: alias_name.as_ref().map_or(spellings, |a| vec![vec![a.clone()]]),
            qualifier: Some(alias_name.unwrap_or(key)),
            shape: renamed(shape, &names),
            known: true,
            open,
        })
    }

    /// Key, table, columns and spellings of a stored relation.
    #[allow(clippy::type_complexity)]
    fn stored(
        &mut self,
        idents: &[Ident],
    ) -> Result<(String, String, Arc<Shape>, Vec<Vec<String>>)> {
        let all: Vec<String> = idents.iter().map(|i| i.value.clone()).collect();
        let key = all.join(".");
        match all.as_slice() {
            [schema, _] if schema == INFORMATION_SCHEMA => {
                if let Some(shape) = self.catalog.table(&key) {
                    return Ok((key.clone(), key, shape, vec![all[1..].to_vec(), all]));
                }
            }
            // Tables of rows that came too late have a dot in their name: `logs.late`.
            _ if self.catalog.tables().contains(&key) => {
                if let Some(shape) = self.catalog.table(&key) {
                    let spellings = vec![all, vec![key.clone()]];
                    return Ok((key.clone(), key, shape, spellings));
                }
            }
            [first, rest @ ..] if first == METRICS && !rest.is_empty() => {
                let name = rest.join(".");
                let spellings = vec![rest.to_vec(), all.clone()];
                let shape = self.metric(&name, &key);
                return Ok((key, METRICS.to_owned(), shape, spellings));
            }
            _ => {}
        }
        let tables = self.catalog.tables();
        let near = nearest(&key, tables.iter().map(String::as_str));
        let message = match near {
            Some(near) => format!("unknown table `{key}`; did you mean `{near}`?"),
            None if tables.is_empty() => format!("unknown table `{key}`; there is no table yet"),
            None => format!("unknown table `{key}`; there are: {}", tables.join(", ")),
        };
        Err(QueryError::Name { message, position: idents.first().and_then(place) })
    }

    fn metric(&mut self, name: &str, key: &str) -> Arc<Shape> {
        if let Some(shape) = self.catalog.metric(name) {
            return shape;
        }
        if !self.tables.contains_key(key) {
            let mut warning = format!("there is no metric `{name}`");
            if let Some(near) = self.catalog.nearest_metric(name) {
                warning.push_str(&format!("; did you mean `{near}`?"));
            }
            self.warnings.push(warning);
        }
        self.catalog.table(METRICS).unwrap_or_default()
    }

    /// Resolves the ON conditions of a FROM item whose relations are all in scope.
    pub(super) fn join_conditions(&mut self, from: &mut TableWithJoins) -> Result<()> {
        for join in &mut from.joins {
            if let JoinOperator::AsOf { match_condition, .. } = &mut join.join_operator {
                self.visit(match_condition, Aliases::Unseen)?;
            }
            if let Some(JoinConstraint::On(on)) = constraint(&mut join.join_operator) {
                self.visit(on, Aliases::Unseen)?;
            }
        }
        Ok(())
    }
}

fn joined(idents: &[Ident]) -> String {
    idents.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join(".")
}

fn column_names(alias: Option<&TableAlias>) -> Vec<Ident> {
    alias.map(|a| a.columns.iter().map(|c| c.name.clone()).collect()).unwrap_or_default()
}

/// A table function; its columns are known only if the alias lists them.
fn function(alias: Option<&TableAlias>, name: Option<&str>) -> Relation {
    let names = column_names(alias);
    let label = alias.map(|a| a.name.value.as_str()).or(name);
    let columns = names.iter().map(|n| (n.value.clone(), None)).collect();
    let shape = Arc::new(Shape { columns, ..Shape::default() });
    Relation { known: !names.is_empty(), ..Relation::derived(label, shape) }
}

fn constraint(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c)
        | JoinOperator::CrossJoin(c)
        | JoinOperator::Semi(c)
        | JoinOperator::LeftSemi(c)
        | JoinOperator::RightSemi(c)
        | JoinOperator::Anti(c)
        | JoinOperator::LeftAnti(c)
        | JoinOperator::RightAnti(c)
        | JoinOperator::StraightJoin(c)
        | JoinOperator::AsOf { constraint: c, .. } => Some(c),
        JoinOperator::CrossApply
        | JoinOperator::OuterApply
        | JoinOperator::ArrayJoin
        | JoinOperator::LeftArrayJoin
        | JoinOperator::InnerArrayJoin => None,
    }
}
