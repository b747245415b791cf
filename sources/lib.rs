//! Sources: one module per type. This file is the table of them and nothing else.

mod columns;
mod json;
