//! weir-sources
