//! What people write: pipeline files and `weir.toml`.

mod bundle;
mod check;
mod deserialize;
mod environment;
mod section;
mod tree;
mod types;

pub use bundle::Bundle;
pub use check::VERBATIM_KEYS;
pub(crate) use check::one_of;
pub use environment::Environment;
pub use section::{Input, Scope, Section, Spanned, Text};
pub use types::{
    Basic, ByteSize, ClientAuth, Duration, Header, Secret, SecretError, ServerAuth, TlsClient,
    TlsServer,
};
