//! Alerts: rules that turn rows into transitions, and the router that turns transitions into
//! pages.
//!
//! A rule (`[alerts.*]`, [`rule::ALERT`]) is a deterministic operator: it runs on ticks, keeps its
//! state in checkpoints and emits one row per change of an instance. The [`Router`] is outside the
//! deterministic part: one per server, on the wall clock, with its own fsynced log. Between the
//! two stands [`ROUTER`], the sink that hands in the transitions of a pipeline.
//!
//! Nothing here knows tables, sources or HTTP servers.

#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "speaks to the outside")]
pub mod notify;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "nothing deterministic reads it"
)]
pub mod router;
pub mod rule;
mod sink;
mod template;
mod transition;

pub use router::{
    AlertStatus, Clock, Router, RouterConfig, RouterError, RouterOptions, WallClock, Wanted,
};
pub use rule::ALERT;
pub use sink::ROUTER;
pub use transition::{State, Transition, fingerprint};
