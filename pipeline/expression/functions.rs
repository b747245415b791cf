//! The functions that expressions can call.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, TableReference, plan_err};
use datafusion::functions::core::planner::CoreFunctionPlanner;
use datafusion::functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion::functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion::functions_nested::planner::{FieldAccessPlanner, NestedFunctionPlanner};
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{
    AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF,
};

/// What a function name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// A function of one row.
    Scalar,
    /// A function that depends on the clock or on chance.
    Clock,
    /// An aggregate.
    Aggregate,
    /// Nothing.
    Unknown,
}

struct Registry {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    clock: Vec<String>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    names: Vec<String>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: Arc<ConfigOptions>,
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut all = datafusion::functions::all_default_functions();
    all.extend(datafusion::functions_nested::all_default_nested_functions());
    all.extend(weir_udfs::all());
    let mut scalar = HashMap::new();
    let mut clock = Vec::new();
    for udf in all {
        let names = std::iter::once(udf.name()).chain(udf.aliases().iter().map(String::as_str));
        for name in names {
            // `version` would tie results to the build.
            if udf.signature().volatility == Volatility::Immutable && name != "version" {
                scalar.insert(name.to_owned(), udf.clone());
            } else {
                clock.push(name.to_owned());
            }
        }
    }
    let mut aggregates = datafusion::functions_aggregate::all_default_aggregate_functions();
    aggregates.extend(weir_udfs::aggregates());
    let mut aggregate = HashMap::new();
    for udaf in aggregates {
        let names = std::iter::once(udaf.name()).chain(udaf.aliases().iter().map(String::as_str));
        for name in names {
            aggregate.insert(name.to_owned(), udaf.clone());
        }
    }
    let mut names: Vec<String> = scalar.keys().cloned().collect();
    names.sort();
    let planners: Vec<Arc<dyn ExprPlanner>> = vec![
        Arc::new(CoreFunctionPlanner::default()),
        Arc::new(NestedFunctionPlanner),
        Arc::new(FieldAccessPlanner),
        Arc::new(DatetimeFunctionPlanner),
        Arc::new(UnicodeFunctionPlanner),
    ];
    Registry { scalar, clock, aggregate, names, planners, options: Arc::default() }
});

/// What `name` (in lower case) stands for.
pub(super) fn lookup(name: &str) -> Lookup {
    if REGISTRY.scalar.contains_key(name) {
        Lookup::Scalar
    } else if REGISTRY.clock.iter().any(|n| n == name) {
        Lookup::Clock
    } else if REGISTRY.aggregate.contains_key(name) {
        Lookup::Aggregate
    } else {
        Lookup::Unknown
    }
}

/// Names of all functions of one row, sorted.
pub(super) fn names() -> &'static [String] {
    &REGISTRY.names
}

/// The aggregate called `name` (in lower case).
pub(super) fn aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    REGISTRY.aggregate.get(name).cloned()
}

/// The options that everything is planned and evaluated with: the defaults.
pub(super) fn options() -> Arc<ConfigOptions> {
    REGISTRY.options.clone()
}

/// What DataFusion's planner asks for: functions, and no tables.
pub(super) struct Provider;

impl ContextProvider for Provider {
    fn get_table_source(
        &self,
        name: TableReference,
    ) -> Result<Arc<dyn TableSource>, DataFusionError> {
        plan_err!("no table in an expression: {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &REGISTRY.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        REGISTRY.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &REGISTRY.options
    }

    fn udf_names(&self) -> Vec<String> {
        REGISTRY.names.clone()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
