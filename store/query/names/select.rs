//! One SELECT: its clauses in the order in which they see names, `*` written out, and a unique
//! name for each column of the answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, RenameSelectItem, Select, SelectItem,
    SelectItemQualifiedWildcardKind, WildcardAdditionalOptions,
};
use indexmap::IndexMap;

use super::lookup::{Relation, Scope};
use super::{Aliases, QueryError, Resolver, Result, Shape, place, quoted};
use crate::query::guard::parts;

/// Longest name made from the text of an expression, in characters.
const NAME_CHARS_MAX: usize = 200;

impl Resolver<'_> {
    pub(super) fn select(&mut self, select: &mut Select) -> Result<(Arc<Shape>, Scope)> {
        let mut from = std::mem::take(&mut select.from);
        let mut scope = Scope::default();
        for item in &mut from {
            self.table_with_joins(item, &mut scope)?;
        }
        scope.aliases = aliases(&select.projection);
        self.scopes.push(scope);
        let shape = self.clauses(select, &mut from);
        let scope = self.scopes.pop().unwrap_or_default();
        select.from = from;
        Ok((shape?, scope))
    }

    fn clauses(
        &mut self,
        select: &mut Select,
        from: &mut [datafusion::sql::sqlparser::ast::TableWithJoins],
    ) -> Result<Arc<Shape>> {
        for item in from {
            self.join_conditions(item)?;
        }
        let shape = self.projection(&mut select.projection)?;
        self.visit(&mut select.selection, Aliases::Unseen)?;
        self.visit(&mut select.prewhere, Aliases::Unseen)?;
        self.visit(&mut select.named_window, Aliases::Unseen)?;
        self.visit(&mut select.group_by, Aliases::Last)?;
        self.visit(&mut select.having, Aliases::Last)?;
        self.visit(&mut select.qualify, Aliases::Last)?;
        self.visit(&mut select.distinct, Aliases::First)?;
        Ok(shape)
    }

    /// Resolves the select list and names its columns.
    fn projection(&mut self, items: &mut Vec<SelectItem>) -> Result<Arc<Shape>> {
        let mut out = Vec::with_capacity(items.len());
        let mut columns: IndexMap<String, Option<DataType>> = IndexMap::new();
        for item in std::mem::take(items) {
            match item {
                SelectItem::Wildcard(options) => {
                    self.wildcard(None, options, &mut out, &mut columns)?;
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    let idents = parts(&name)?;
                    self.wildcard(Some(&idents), options, &mut out, &mut columns)?;
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(e), _) => {
                    return Err(QueryError::Refused(format!("`{e}.*` is not understood")));
                }
                SelectItem::ExprWithAlias { mut expr, alias } => {
                    self.visit(&mut expr, Aliases::Unseen)?;
                    columns.insert(alias.value.clone(), self.type_of(&expr));
                    out.push(SelectItem::ExprWithAlias { expr, alias: quoted(&alias.value) });
                }
                SelectItem::ExprWithAliases { expr, .. } => {
                    return Err(QueryError::Refused(format!("`{expr}` has several aliases")));
                }
                SelectItem::UnnamedExpr(mut expr) => {
                    let text = text(&expr);
                    self.visit(&mut expr, Aliases::Unseen)?;
                    push(expr, &text, &mut out, &mut columns, |e| self.type_of(e));
                }
            }
        }
        *items = out;
        Ok(Arc::new(Shape { columns, ..Shape::default() }))
    }

    /// The type of an expression that is a column as it stands.
    fn type_of(&self, expr: &Expr) -> Option<DataType> {
        let scope = self.scopes.last()?;
        let find = |qualifier: Option<&str>, name: &str| {
            scope
                .relations
                .iter()
                .filter(|r| qualifier.is_none() || r.qualifier.as_deref() == qualifier)
                .find_map(|r| r.shape.columns.get(name).cloned())
                .flatten()
        };
        match expr {
            Expr::Identifier(i) => find(None, &i.value),
            Expr::CompoundIdentifier(i) => match i.as_slice() {
                [q, i] => find(Some(&q.value), &i.value),
                _ => None,
            },
            _ => None,
        }
    }

    /// Writes `*` or `alias.*` out.
    fn wildcard(
        &mut self,
        of: Option<&[Ident]>,
        options: WildcardAdditionalOptions,
        out: &mut Vec<SelectItem>,
        columns: &mut IndexMap<String, Option<DataType>>,
    ) -> Result<()> {
        if options.opt_ilike.is_some() {
            return Err(QueryError::Refused("`* ILIKE` is not understood".into()));
        }
        let scope = self.scopes.last().cloned().unwrap_or_default();
        let relations: Vec<&Relation> = match of {
            None => scope.relations.iter().collect(),
            Some(name) => {
                let name: Vec<String> = name.iter().map(|i| i.value.clone()).collect();
                scope.relations.iter().filter(|r| r.spellings.contains(&name)).collect()
            }
        };
        if relations.is_empty() {
            let (message, position) = match of {
                None => ("`*` needs a FROM".to_owned(), None),
                Some(name) => {
                    let text = name.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join(".");
                    (format!("no table or alias `{text}` here"), name.first().and_then(place))
                }
            };
            return Err(QueryError::Name { message, position });
        }
        let mut replaced = options.opt_replace.map(|r| r.items).unwrap_or_default();
        for item in &mut replaced {
            self.visit(&mut item.expr, Aliases::Unseen)?;
        }
        let left_out = left_out(options.opt_exclude.as_ref(), options.opt_except)?;
        let renames = match options.opt_rename {
            None => Vec::new(),
            Some(RenameSelectItem::Single(one)) => vec![one],
            Some(RenameSelectItem::Multiple(many)) => many,
        };
        let mut merged: BTreeSet<&str> = BTreeSet::new();
        for relation in relations {
            if !relation.known {
                // Its columns are the planner's to list.
                let own = WildcardAdditionalOptions::default();
                out.push(match &relation.qualifier {
                    Some(q) if scope.relations.len() > 1 => SelectItem::QualifiedWildcard(
                        SelectItemQualifiedWildcardKind::ObjectName(vec![quoted(q)].into()),
                        own,
                    ),
                    _ => SelectItem::Wildcard(own),
                });
                continue;
            }
            if relation.shape.unlisted > 0 {
                self.warnings.push(format!(
                    "`*` of `{}` leaves out {} of its columns; name those that you want",
                    relation.label(),
                    relation.shape.unlisted
                ));
            }
            for (name, t) in &relation.shape.columns {
                if left_out.contains(name) {
                    continue;
                }
                if of.is_none() && scope.using.contains(name) && !merged.insert(name) {
                    continue;
                }
                if let Some(r) = replaced.iter().find(|r| r.column_name.value == *name) {
                    columns.insert(name.clone(), None);
                    let (expr, alias) = (r.expr.clone(), quoted(name));
                    out.push(SelectItem::ExprWithAlias { expr, alias });
                    continue;
                }
                if let Some(merged) = scope.merged(name).filter(|_| of.is_none()) {
                    push(merged, name, out, columns, |_| t.clone());
                    continue;
                }
                let expr = match &relation.qualifier {
                    Some(q) => Expr::CompoundIdentifier(vec![quoted(q), quoted(name)]),
                    None => Expr::Identifier(quoted(name)),
                };
                if let Some(r) = renames.iter().find(|r| r.ident.value == *name) {
                    columns.insert(r.alias.value.clone(), t.clone());
                    let alias = quoted(&r.alias.value);
                    out.push(SelectItem::ExprWithAlias { expr, alias });
                    continue;
                }
                let text = match &relation.qualifier {
                    Some(q) => format!("{q}.{name}"),
                    None => name.clone(),
                };
                push(expr, &text, out, columns, |_| t.clone());
            }
        }
        if out.is_empty() {
            return Err(QueryError::Name {
                message: "`*` has no column: there is no row yet".into(),
                position: None,
            });
        }
        Ok(())
    }
}

/// Adds a column without an alias: a plain column keeps its name, an expression gets its text,
/// and a name that is taken already gets the text, then a number.
fn push(
    expr: Expr,
    text: &str,
    out: &mut Vec<SelectItem>,
    columns: &mut IndexMap<String, Option<DataType>>,
    type_of: impl FnOnce(&Expr) -> Option<DataType>,
) {
    let own = match &expr {
        Expr::Identifier(i) => Some(i.value.clone()),
        Expr::CompoundIdentifier(i) => i.last().map(|i| i.value.clone()),
        _ => None,
    };
    let t = type_of(&expr);
    if let Some(own) = own.filter(|o| !columns.contains_key(o)) {
        columns.insert(own, t);
        out.push(SelectItem::UnnamedExpr(expr));
        return;
    }
    let numbered = (2..).map(|i| format!("{text}_{i}"));
    let Some(name) =
        std::iter::once(text.to_owned()).chain(numbered).find(|name| !columns.contains_key(name))
    else {
        return;
    };
    columns.insert(name.clone(), t);
    out.push(SelectItem::ExprWithAlias { expr, alias: quoted(&name) });
}

/// An expression as it was written; a name without its quotes.
fn text(expr: &Expr) -> String {
    let text = match expr {
        Expr::Identifier(i) => i.value.clone(),
        Expr::CompoundIdentifier(i) => {
            i.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join(".")
        }
        other => other.to_string(),
    };
    text.chars().take(NAME_CHARS_MAX).collect()
}

fn aliases(items: &[SelectItem]) -> BTreeSet<String> {
    items
        .iter()
        .filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
            _ => None,
        })
        .collect()
}

fn left_out(
    exclude: Option<&ExcludeSelectItem>,
    except: Option<datafusion::sql::sqlparser::ast::ExceptSelectItem>,
) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if let Some(except) = except {
        names.insert(except.first_element.value);
        names.extend(except.additional_elements.into_iter().map(|i| i.value));
    }
    let exclude = match exclude {
        None => &[][..],
        Some(ExcludeSelectItem::Single(one)) => std::slice::from_ref(one),
        Some(ExcludeSelectItem::Multiple(many)) => many.as_slice(),
    };
    for name in exclude {
        let idents = parts(name)?;
        names.insert(idents.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join("."));
    }
    Ok(names)
}
