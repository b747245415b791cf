//! A text column under way.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, StringBuilder};
use weir_pipeline::component::DecodeError;

/// A text column that fails instead of panicking past Arrow's limit.
#[derive(Debug)]
pub(crate) struct TextBuilder {
    builder: StringBuilder,
    /// Rows for which there is to be room.
    rows: usize,
    /// Most bytes for which there is room before they come; 0 once there is.
    room: usize,
    /// Whether there were more bytes than an array holds.
    full: bool,
}

impl TextBuilder {
    /// For about `rows` values. By the length of the first there is room for so many, but for at
    /// most `bytes` in all.
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        let builder = StringBuilder::with_capacity(rows, 0);
        Self { builder, rows, room: bytes, full: false }
    }

    /// Adds a value.
    #[inline]
    pub(crate) fn push(&mut self, value: &str) {
        if self.room > 0 && !value.is_empty() {
            self.make_room(value.len());
        }
        if self.builder.values_slice().len() + value.len() > i32::MAX as usize {
            self.full = true;
            self.builder.append_null();
        } else {
            self.builder.append_value(value);
        }
    }

    /// Adds a value, or none.
    #[inline]
    pub(crate) fn push_option(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.push(value),
            None => self.builder.append_null(),
        }
    }

    /// Adds `n` rows without a value.
    pub(crate) fn push_nulls(&mut self, n: usize) {
        self.builder.append_nulls(n);
    }

    #[cold]
    fn make_room(&mut self, first: usize) {
        let room = std::mem::take(&mut self.room);
        // Else it grows as values come.
        if self.builder.offsets_slice().len() == 1 {
            let bytes = first.saturating_mul(self.rows).min(room);
            self.builder = StringBuilder::with_capacity(self.rows, bytes);
        }
    }

    /// The values so far, which it gives up.
    pub(super) fn take(&mut self) -> StringArray {
        self.builder.finish()
    }

    /// The column, called `name`.
    ///
    /// # Errors
    /// If the column takes more than 2 GiB.
    pub(crate) fn finish(mut self, name: &str) -> Result<ArrayRef, DecodeError> {
        if self.full {
            let message = format!("column `{name}` of one request takes more than 2 GiB");
            return Err(DecodeError::new("too_large", message));
        }
        Ok(Arc::new(self.take()))
    }
}
