//! Resolves names before planning, over the parsed statement.
//!
//! Column names hold dots and stand bare: `WHERE http.route = '/cart'`. This pass knows what is in
//! scope (tables, aliases, CTEs, subqueries, outer queries) and turns each compound name into one
//! meaning: a table or alias in scope and its longest dotted column; else the longest dotted
//! column; else a struct field of the longest prefix (`histogram.count`). Quoted parts are never
//! joined; two possible meanings are an error that names both. Names are case-sensitive.
//!
//! - `FROM metrics.<metric name, any number of parts>` reads one metric.
//! - A name seen nowhere becomes a NULL column of the nearest table in scope, with a warning.
//! - `*` is written out: every column of the table that any row has a value for. The rows of one
//!   metric have its columns alone; `metrics` as a whole has those of all metrics.
//! - Every answer column gets a unique name: the column's, the alias, or the text as written.

mod from;
mod lookup;
mod select;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, CastKind, DataType as SqlType, ExactNumberInfo, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, Ident, OrderBy, OrderByKind, Query, SelectItem, SetExpr,
    Statement, VisitMut, VisitorMut,
};
use indexmap::IndexMap;

use super::{Position, QueryError};
use lookup::{Relation, Scope};

/// The columns of a table, or of a subquery.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// In the order of `*`; the type is unknown for computed columns.
    pub columns: IndexMap<String, Option<DataType>>,
    /// Names that can be read but are no column of their own: keys of the JSON column
    /// `attributes`.
    pub keys: BTreeSet<String>,
    /// Of `keys`, those that are columns and too many for `*`.
    pub unlisted: usize,
    /// `attributes` may hold names that nobody has listed.
    pub open: bool,
    /// There is nothing but `columns`: the table is not of Weir's making, and a name that it lacks is
    /// a mistake.
    pub closed: bool,
}

impl Shape {
    /// Whether `name` can be read.
    pub fn has(&self, name: &str) -> bool {
        self.columns.contains_key(name) || self.keys.contains(name)
    }
}

/// What the pass asks of the tables of one tenant.
pub trait Catalog {
    /// Every table.
    fn tables(&self) -> Vec<String>;
    /// The columns of a table.
    fn table(&self, name: &str) -> Option<Arc<Shape>>;
    /// The columns of one metric, `None` if no row has that name.
    fn metric(&self, name: &str) -> Option<Arc<Shape>>;
    /// The known metric name nearest to `name`.
    fn nearest_metric(&self, name: &str) -> Option<String>;
}

/// A table as a statement uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// The table to read.
    pub table: String,
    /// Only rows of this metric.
    pub metric: Option<String>,
    /// Names seen nowhere, to be read as NULL.
    pub missing: BTreeSet<String>,
}

/// A statement whose names have one meaning each.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// To be planned without any further folding or joining of names.
    pub statement: Statement,
    /// Tables by the (single) identifier that now stands for them.
    pub tables: BTreeMap<String, TableUse>,
    /// For the person who asked.
    pub warnings: Vec<String>,
}

/// Functions that take numbers and nothing else.
const NUMERIC: [&str; 16] = [
    "approx_median",
    "approx_percentile_cont",
    "avg",
    "corr",
    "mean",
    "median",
    "percentile_cont",
    "quantile",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var",
    "var_pop",
    "var_samp",
    "var_sample",
];

/// Resolves every name of `statement`.
///
/// # Errors
/// [`QueryError::Name`] for unknown tables, unknown columns of subqueries and names with two
/// meanings.
pub fn resolve(mut statement: Statement, catalog: &dyn Catalog) -> Result<Resolved, QueryError> {
    let mut resolver = Resolver {
        catalog,
        scopes: Vec::new(),
        ctes: Vec::new(),
        tables: BTreeMap::new(),
        warnings: Vec::new(),
        unseen: BTreeSet::new(),
        aliases: Aliases::Unseen,
        inside: 0,
    };
    match &mut statement {
        Statement::Query(query) => drop(resolver.query(query)?),
        Statement::Explain { statement, .. } => {
            if let Statement::Query(query) = statement.as_mut() {
                resolver.query(query)?;
            }
        }
        _ => {}
    }
    Ok(Resolved { statement, tables: resolver.tables, warnings: resolver.warnings })
}

/// How the clause at hand sees the aliases of its SELECT.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aliases {
    /// Before columns: ORDER BY, DISTINCT ON.
    First,
    /// After columns: GROUP BY, HAVING, QUALIFY.
    Last,
    /// Not at all: the select list itself, WHERE, joins.
    Unseen,
}

struct Resolver<'a> {
    catalog: &'a dyn Catalog,
    /// Outermost first.
    scopes: Vec<Scope>,
    /// In sight, innermost last.
    ctes: Vec<(String, Arc<Shape>)>,
    tables: BTreeMap<String, TableUse>,
    warnings: Vec<String>,
    /// Names seen nowhere, as they now stand in the statement.
    unseen: BTreeSet<String>,
    aliases: Aliases,
    /// Queries around that have been resolved already, while the visitor walks through them.
    inside: usize,
}

type Result<T, E = QueryError> = std::result::Result<T, E>;

impl Resolver<'_> {
    /// Resolves a query whole; gives its columns.
    fn query(&mut self, query: &mut Query) -> Result<Arc<Shape>> {
        let ctes = self.ctes.len();
        if let Some(with) = &mut query.with {
            for cte in &mut with.cte_tables {
                let name = cte.alias.name.value.clone();
                let names: Vec<Ident> = cte.alias.columns.iter().map(|c| c.name.clone()).collect();
                if with.recursive {
                    let shape = self.recursive_shape(&cte.query)?;
                    self.ctes.push((name, renamed(shape, &names)));
                    self.query(&mut cte.query)?;
                } else {
                    let shape = self.query(&mut cte.query)?;
                    self.ctes.push((name, renamed(shape, &names)));
                }
            }
        }
        let (shape, scope) = self.body(&mut query.body)?;
        // What stands behind the body sees the select's own tables and aliases.
        let scope = scope.unwrap_or_else(|| Scope::of(Relation::derived(None, shape.clone())));
        self.scopes.push(scope);
        self.visit(&mut query.order_by, Aliases::First)?;
        by_alias(query);
        self.visit(&mut query.limit_clause, Aliases::Unseen)?;
        self.visit(&mut query.fetch, Aliases::Unseen)?;
        self.scopes.pop();
        self.ctes.truncate(ctes);
        Ok(shape)
    }

    /// The columns of a recursive CTE are those of its first term.
    fn recursive_shape(&mut self, query: &Query) -> Result<Arc<Shape>> {
        match query.body.as_ref() {
            SetExpr::SetOperation { left, .. } => Ok(self.body(&mut left.clone())?.0),
            other => Ok(self.body(&mut other.clone())?.0),
        }
    }

    fn body(&mut self, body: &mut SetExpr) -> Result<(Arc<Shape>, Option<Scope>)> {
        match body {
            SetExpr::Select(select) => {
                self.select(select).map(|(shape, scope)| (shape, Some(scope)))
            }
            SetExpr::Query(query) => Ok((self.query(query)?, None)),
            SetExpr::SetOperation { left, right, .. } => {
                let (shape, _) = self.body(left)?;
                self.body(right)?;
                Ok((shape, None))
            }
            SetExpr::Values(values) => {
                let width = values.rows.first().map_or(0, |r| r.content.len());
                self.visit(values, Aliases::Unseen)?;
                let columns = (1..=width).map(|i| (format!("column{i}"), None)).collect();
                Ok((Arc::new(Shape { columns, ..Shape::default() }), None))
            }
            // The guard lets no other through.
            _ => Err(QueryError::Refused("only queries are answered".into())),
        }
    }

    /// A name seen nowhere has no type; functions that take numbers alone are told that it is one.
    fn numbers(&self, function: &mut Function) {
        let name = function.name.to_string().to_ascii_lowercase();
        if !NUMERIC.contains(&name.as_str()) {
            return;
        }
        let FunctionArguments::List(list) = &mut function.args else { return };
        for arg in &mut list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else { continue };
            if self.unseen.contains(&expr.to_string()) {
                *expr = Expr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(expr.clone()),
                    data_type: SqlType::Double(ExactNumberInfo::None),
                    array: false,
                    format: None,
                };
            }
        }
    }

    /// Resolves every name in `node`, which lies in the scopes at hand.
    fn visit<T: VisitMut>(&mut self, node: &mut T, aliases: Aliases) -> Result<()> {
        let before = (self.aliases, self.inside);
        (self.aliases, self.inside) = (aliases, 0);
        let flow = node.visit(self);
        (self.aliases, self.inside) = before;
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(e) => Err(e),
        }
    }
}

impl VisitorMut for Resolver<'_> {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        if self.inside == 0 {
            let aliases = self.aliases;
            let done = self.query(query);
            self.aliases = aliases;
            if let Err(e) = done {
                return ControlFlow::Break(e);
            }
        }
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<QueryError> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        if self.inside > 0 {
            return ControlFlow::Continue(());
        }
        if matches!(expr, Expr::CompoundFieldAccess { .. }) {
            join_dots(expr);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        if self.inside > 0 {
            return ControlFlow::Continue(());
        }
        let done = match expr {
            Expr::Identifier(ident) => self.single(ident).map(|new| {
                if let Some(new) = new {
                    *expr = new;
                }
            }),
            Expr::CompoundIdentifier(idents) => self.compound(idents).map(|new| {
                if let Some(new) = new {
                    *expr = new;
                }
            }),
            Expr::Function(function) => {
                self.numbers(function);
                Ok(())
            }
            _ => Ok(()),
        };
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
}

/// ORDER BY an expression of the select list goes by its name, as SELECT DISTINCT needs it.
fn by_alias(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderBy { kind: OrderByKind::Expressions(exprs), .. }) = &mut query.order_by else {
        return;
    };
    for order in exprs {
        let alias = select.projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias } if *expr == order.expr => Some(alias),
            _ => None,
        });
        if let Some(alias) = alias {
            order.expr = Expr::Identifier(alias.clone());
        }
    }
}

/// `a.b[0]` is parsed as a field access on `a`; its leading dotted part is one compound name.
fn join_dots(expr: &mut Expr) {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else { return };
    let mut idents = match root.as_ref() {
        Expr::Identifier(ident) => vec![ident.clone()],
        Expr::CompoundIdentifier(idents) => idents.clone(),
        _ => return,
    };
    let dots = access_chain
        .iter()
        .map_while(|a| match a {
            AccessExpr::Dot(Expr::Identifier(ident)) => Some(ident.clone()),
            _ => None,
        })
        .collect::<Vec<_>>();
    if dots.is_empty() {
        return;
    }
    access_chain.drain(..dots.len());
    idents.extend(dots);
    let name = Expr::CompoundIdentifier(idents);
    if access_chain.is_empty() {
        *expr = name;
    } else {
        **root = name;
    }
}

/// The same columns under the names of an alias' column list (`AS t(a, b)`).
fn renamed(shape: Arc<Shape>, names: &[Ident]) -> Arc<Shape> {
    if names.is_empty() {
        return shape;
    }
    let columns = shape
        .columns
        .iter()
        .enumerate()
        .map(|(i, (name, t))| {
            (names.get(i).map_or_else(|| name.clone(), |n| n.value.clone()), t.clone())
        })
        .collect();
    Arc::new(Shape { columns, ..Shape::default() })
}

/// An identifier that is taken as it stands.
fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

fn place(ident: &Ident) -> Option<Position> {
    let start = ident.span.start;
    (start.line > 0).then_some(Position { line: start.line, column: start.column })
}

/// The nearest of `names` to `name`, if any is near.
pub fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let far = (name.chars().count() / 3).clamp(1, 4);
    names
        .map(|n| (strsim::damerau_levenshtein(name, n), n))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, n)| n)
}
