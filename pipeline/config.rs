//! What people write: pipeline files and `weir.toml`.

mod bundle;
mod section;
mod types;

pub use bundle::Bundle;
pub use section::{Input, Scope, Section, Spanned, Text};
pub use types::{ByteSize, Duration, Secret, SecretError};
