//! weir-sinks
