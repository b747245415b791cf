//! The part of a file that configures one component, with the place of each value.

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span};
use crate::edge::Edge;

/// A value with its place in the file. (`toml::Spanned` plus a JSON schema.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Bytes of the file.
    pub range: Range<usize>,
}

/// A program or expression as written, inline or in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Where it stands: the text itself where it stands verbatim (`exact`), else the TOML value.
    pub span: Span,
    /// Whether byte `i` of `text` is byte `i` of `span`.
    pub exact: bool,
}

impl Text {
    /// The place of bytes `range` of the text.
    pub fn locate(&self, range: Range<usize>) -> Span {
        if self.exact { self.span.within(range) } else { self.span.clone() }
    }
}

/// The table of one component, without the keys that the engine itself reads (`type`, `inputs`,
/// `on_error`, `was`), with `${NAME}` already replaced.
#[derive(Clone, Debug)]
pub struct Section {
    /// Component id.
    pub id: String,
    /// The file it stands in.
    pub file: Arc<SourceText>,
    /// Its header, `[operators.id]`.
    pub header: Span,
}

impl Section {
    /// The section as `C`: every unknown key, wrong type and missing key is reported, with the
    /// nearest right name. `C` derives `Deserialize` with `deny_unknown_fields`, and `JsonSchema`.
    ///
    /// # Errors
    /// All mistakes of this section.
    pub fn read<C: DeserializeOwned + JsonSchema>(&self) -> Result<C, Diagnostics> {
        unimplemented!()
    }

    /// The place of a value.
    pub fn span<T>(&self, value: &Spanned<T>) -> Span {
        Span { file: self.file.clone(), range: value.range.clone() }
    }

    /// A text that stands inline.
    pub fn text(&self, _value: &Spanned<String>) -> Text {
        unimplemented!()
    }

    /// A text that stands inline under the key `inline` or in the file named by the key `file`:
    /// exactly one of the two.
    ///
    /// # Errors
    /// If none or both are given, or the file cannot be read.
    pub fn text_or_file(
        &self,
        _key: &str,
        _inline: Option<&Spanned<String>>,
        _file: Option<&Spanned<String>>,
        _scope: &Scope,
    ) -> Result<Text, Diagnostics> {
        unimplemented!()
    }
}

/// One input of the node being planned.
#[derive(Clone, Debug)]
pub struct Input {
    /// As written: `id` or `id.output`.
    pub name: String,
    /// What flows in.
    pub edge: Edge,
}

/// What planning may know besides the section: the node's inputs and the files it names.
#[derive(Debug, Default)]
pub struct Scope {
    /// The inputs, in order. Empty for sources.
    pub inputs: Vec<Input>,
    /// Folder that paths in the file are relative to.
    pub base: PathBuf,
    warnings: RefCell<Vec<Diagnostic>>,
    files: RefCell<Vec<Arc<SourceText>>>,
}

impl Scope {
    /// A scope with these inputs, whose relative paths start at `base`.
    pub fn new(inputs: Vec<Input>, base: PathBuf) -> Self {
        Self { inputs, base, ..Self::default() }
    }

    /// Notes something that does not stop the file.
    pub fn warn(&self, warning: Diagnostic) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Takes the warnings noted so far.
    pub fn take_warnings(&self) -> Vec<Diagnostic> {
        self.warnings.take()
    }

    /// Reads a file that the configuration names. It becomes part of what a reload compares and
    /// of what a checkpoint keeps.
    ///
    /// # Errors
    /// If it cannot be read, at `span`.
    pub fn read_file(&self, _path: &str, _span: &Span) -> Result<Arc<SourceText>, Diagnostics> {
        unimplemented!()
    }

    /// The files read so far.
    pub fn take_files(&self) -> Vec<Arc<SourceText>> {
        self.files.take()
    }
}
