//! The table of operator types.

mod filter;
mod inputs;
#[cfg(test)]
mod testing;
mod vrl;
mod window;

use weir_pipeline::component::OperatorKind;

/// Every operator type, by name.
pub const ALL: &[OperatorKind] = &[filter::KIND, vrl::KIND, window::KIND];
