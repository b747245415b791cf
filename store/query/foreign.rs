//! Tables that live in stores of others (`[stores.<name>]`), read as `<store>.<table>` or
//! `<store>.<database>.<table>`.
//!
//! A statement that names one asks the store for the columns first, so that a store that is down is
//! known within its `timeout`, and nothing else waits for it. Conditions and columns are asked for
//! there as far as both sides are sure to mean the same by them ([`filter`], [`types`]); all
//! conditions are looked at again here. Requests are sent by a thread of their own, since those of
//! queries do no I/O; what comes waits in a short queue and counts against the memory of queries.

mod client;
mod exec;
mod filter;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{
    self as sql, ObjectName, Statement, visit_expressions, visit_relations,
};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Runtime;
use weir_pipeline::config::{StoreConfig, Stores};

use self::client::Client;
use self::types::Column;
use super::QueryError;
use super::catalog::{COLUMNS, ColumnInfo};
use super::guard::parts;
use super::names::Shape;

/// The stores of others that queries know.
#[derive(Default)]
pub(super) struct Foreign {
    clients: RwLock<BTreeMap<String, Arc<Client>>>,
    /// Sends requests. Started with the first store.
    runtime: Mutex<Option<Runtime>>,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl Foreign {
    /// From now on these.
    ///
    /// # Errors
    /// If the thread for requests cannot be started.
    pub(super) fn set(&self, stores: &Stores) -> io::Result<()> {
        let mut runtime = self.runtime.lock();
        if runtime.is_none() && !stores.is_empty() {
            let builder = &mut tokio::runtime::Builder::new_multi_thread();
            *runtime = Some(builder.worker_threads(1).thread_name("stores").enable_all().build()?);
        }
        let Some(handle) = runtime.as_ref().map(Runtime::handle) else {
            self.clients.write().clear();
            return Ok(());
        };
        let mut clients = self.clients.write();
        // A client whose settings did not change keeps its connections.
        let client = |(name, config): (&String, &StoreConfig)| match clients.get(name) {
            Some(known) if known.config == *config => (name.clone(), known.clone()),
            _ => (name.clone(), Arc::new(Client::new(name, config.clone(), handle.clone()))),
        };
        *clients = stores.iter().map(client).collect();
        Ok(())
    }

    /// The foreign tables that a statement names, by the name that it will have: those of `own`
    /// names are no foreign ones.
    ///
    /// # Errors
    /// If a store does not answer, or has no such table.
    pub(super) async fn named(
        &self,
        statement: &Statement,
        own: impl Fn(&str) -> bool,
        seconds: u64,
    ) -> Result<BTreeMap<String, Arc<ForeignTable>>, QueryError> {
        let mut tables: BTreeMap<String, Arc<ForeignTable>> = BTreeMap::new();
        if self.clients.read().is_empty() {
            return Ok(tables);
        }
        for parts in mentioned(statement)? {
            let Some(first) = parts.first() else { continue };
            let Some(client) = self.clients.read().get(first).cloned() else { continue };
            let key = parts.join(".");
            if parts.len() == 1 || own(&key) {
                continue;
            }
            let (database, table) = match &parts[1..] {
                [table] => (client.config.database.clone(), table.clone()),
                [database, table] => (database.clone(), table.clone()),
                _ => {
                    let message = format!(
                        "unknown table `{key}`: a table of a store is `{first}.table` or \
                         `{first}.database.table`, in double quotes where a name has dots"
                    );
                    return Err(QueryError::Name { message, position: None });
                }
            };
            match tables.get(&key) {
                Some(known) if known.database == database && known.table == table => continue,
                Some(_) => {
                    let message = format!("`{key}` names two tables of one statement");
                    return Err(QueryError::Name { message, position: None });
                }
                None => {}
            }
            let columns = client.describe(&database, &table).await.map_err(QueryError::Failed)?;
            let fields: Vec<_> = columns.iter().map(|c| c.field.clone()).collect();
            let schema = Arc::new(Schema::new(fields));
            let found = ForeignTable { client, database, table, columns, schema, seconds };
            tables.insert(key, Arc::new(found));
        }
        Ok(tables)
    }
}

/// The parts of the names of tables that a statement reads, or, as DESCRIBE does, asks about.
fn mentioned(statement: &Statement) -> Result<Vec<Vec<String>>, QueryError> {
    let mut names: Vec<ObjectName> = Vec::new();
    let _ = visit_relations(statement, |name| {
        names.push(name.clone());
        ControlFlow::<()>::Continue(())
    });
    let mut all = Vec::new();
    for name in &names {
        all.push(parts(name)?.into_iter().map(|ident| ident.value).collect::<Vec<_>>());
    }
    let listed: Vec<String> = COLUMNS.split('.').map(str::to_owned).collect();
    if all.contains(&listed) {
        let _ = visit_expressions(statement, |expr| {
            if let sql::Expr::BinaryOp { left, op: sql::BinaryOperator::Eq, right } = expr
                && matches!(&**left, sql::Expr::Identifier(name) if name.value == "table_name")
                && let sql::Expr::Value(value) = &**right
                && let sql::Value::SingleQuotedString(name) = &value.value
            {
                all.push(name.split('.').map(str::to_owned).collect());
            }
            ControlFlow::<()>::Continue(())
        });
    }
    Ok(all)
}

/// A table of a store.
pub(super) struct ForeignTable {
    client: Arc<Client>,
    database: String,
    table: String,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Longest time that a query takes.
    seconds: u64,
}

impl fmt::Debug for ForeignTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForeignTable({}.{})", self.database, self.table)
    }
}

impl ForeignTable {
    /// Its columns, for the names in a statement. There are no others.
    pub(super) fn shape(&self) -> Arc<Shape> {
        let fields = self.schema.fields().iter();
        let columns = fields.map(|f| (f.name().clone(), Some(f.data_type().clone()))).collect();
        Arc::new(Shape { columns, closed: true, ..Shape::default() })
    }

    /// Its columns, for those who ask what there is.
    pub(super) fn columns(&self) -> Vec<ColumnInfo> {
        let info = |c: &Column| ColumnInfo {
            name: c.field.name().clone(),
            data_type: c.field.data_type().to_string(),
            level: "row",
        };
        self.columns.iter().map(info).collect()
    }

    /// The statement that gives these columns of the rows that `filters` leave.
    fn sql(&self, projection: &[usize], filters: &[Expr], limit: Option<usize>) -> String {
        let columns: Vec<&Column> = projection.iter().map(|i| &self.columns[*i]).collect();
        let list = |of: fn(&Column) -> String, none: &str| match columns.is_empty() {
            true => none.to_owned(),
            false => columns.iter().map(|c| of(c)).collect::<Vec<_>>().join(", "),
        };
        // Conditions stand below, where a name is the column and not what is made of it.
        let mut sql = format!(
            "SELECT {} FROM (SELECT {} FROM {}.{}",
            list(|c| c.select.clone(), "1"),
            list(|c| c.raw.clone(), "1"),
            types::name(&self.database),
            types::name(&self.table),
        );
        let conditions: Vec<String> =
            filters.iter().filter_map(|f| filter::condition(f, &self.columns)).collect();
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        if let Some(limit) = limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        sql.push(')');
        sql
    }
}

#[async_trait]
impl TableProvider for ForeignTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let of = |filter: &&Expr| match filter::condition(filter, &self.columns) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.columns.len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        // Where a condition is looked at again, a limit of rows would be one of too few.
        let limit = limit.filter(|_| filters.is_empty());
        let sql = self.sql(&projection, filters, limit);
        let schema = Arc::new(self.schema.project(&projection)?);
        Ok(Arc::new(exec::ForeignExec::new(self.client.clone(), sql, schema, self.seconds)))
    }
}
