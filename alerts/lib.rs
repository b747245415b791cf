//! weir-alerts
