//! What people write: pipeline files and `weir.toml`.
//!
//! `tree` is the file with the place of each value, `check` holds it against the schema of a
//! component, `file` reads the shape of a pipeline file, `planner` proves its parts, and `load`
//! does so for a folder, with the last good version of what is broken. Reading files is all it
//! does to the world.

mod bundle;
mod cases;
mod check;
mod deserialize;
mod environment;
mod file;
mod load;
mod planner;
mod reference;
mod section;
mod server;
mod tree;
mod types;

pub use bundle::Bundle;
pub use cases::TEST_EPOCH;
pub use check::VERBATIM_KEYS;
pub(crate) use check::one_of;
pub use environment::Environment;
pub(crate) use file::ERRORS_ID;
pub use file::pipeline_files;
pub use load::{
    FileState, FileStatus, LastGood, Loaded, Present, bundle_of, load, plan_from_bundle,
    source_from_bundle,
};
pub(crate) use load::{moved, name_of, plan_beside};
pub use reference::{pipeline_schema, reference, reference_page};
pub(crate) use section::FILE_BYTES_MAX;
pub use section::{Input, Lookups, Scope, Section, Spanned, Text, emptied};
pub use server::{Explained, Flags, ServerConfig, StoreConfig, StoreKind, Stores, TableConfig};
pub use types::{
    Basic, ByteSize, ClientAuth, Duration, Header, Secret, SecretError, ServerAuth, TlsClient,
    TlsServer,
};

#[cfg(test)]
mod tests;
