//! The tables of all crates, put together for the engine.

use weir_pipeline::component::Components;

/// Everything that a pipeline file can name.
pub(crate) const ALL: Components = Components {
    sources: weir_sources::ALL,
    operators: weir_operators::ALL,
    sinks: weir_sinks::ALL,
    lookups: weir_sources::LOOKUPS,
    alert: &weir_alerts::ALERT,
    router: &weir_alerts::ROUTER,
    errors: "store",
};
