//! weir-udfs
