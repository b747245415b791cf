//! The one type that carries what is wrong with what people wrote: code, message, file, span,
//! label, hint. Rendered the same everywhere: terminal, log, API.

pub mod codes;
mod mask;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use self::mask::Mask;

/// A text that people wrote, with the path to show for it.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// Path as the user would type it.
    pub path: PathBuf,
    /// The whole text.
    pub text: String,
}

/// A place in a [`SourceText`], in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub file: Arc<SourceText>,
    /// Bytes of `file.text`.
    pub range: Range<usize>,
}

impl Span {
    /// One-based line and column (in characters) of the start.
    pub fn line_column(&self) -> (usize, usize) {
        let start = self.range.start.min(self.file.text.len());
        let before = self.file.text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The part of this span at `inner`, bytes relative to its start. For mistakes inside a
    /// program or expression whose text stands verbatim in the file.
    pub fn within(&self, inner: Range<usize>) -> Self {
        let start = self.range.start;
        let end = (start + inner.end).min(self.range.end);
        Self { file: self.file.clone(), range: (start + inner.start).min(end)..end }
    }

    /// Whether two places have a byte in common, or one is an empty place in the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (&self.range, &other.range);
        self.file.path == other.file.path && a.start <= b.end && b.start <= a.end
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Stops nothing; `--strict` makes it an error.
    Warning,
    /// The file cannot run.
    Error,
}

/// Something that is wrong, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code, `W` and three digits; listed in `docs/`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop, says what kind of thing, names the value.
    pub message: String,
    /// Where.
    pub span: Option<Span>,
    /// Said beside the underline: what was expected, the nearest right name.
    pub label: Option<String>,
    /// The next step, on a line of its own.
    pub hint: Option<String>,
    /// Another place that matters, and what is there.
    pub related: Option<(Span, String)>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            span: None,
            label: None,
            hint: None,
            related: None,
        }
    }

    /// A warning without a place yet.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Sets the place, unless there is one already.
    #[must_use]
    pub fn at(mut self, span: &Span) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }

    /// Sets what stands beside the underline.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names another place that matters.
    #[must_use]
    pub fn related(mut self, span: &Span, what: impl Into<String>) -> Self {
        self.related = Some((span.clone(), what.into()));
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let mask = self.span.as_ref().map(|span| Mask::new(&span.file));
        let shown = |text: &str| mask.as_ref().map_or_else(|| text.to_owned(), |m| m.message(text));
        writeln!(f, "{kind}[{}]: {}", self.code, shown(&self.message))?;
        let label = self.label.as_deref().map(shown);
        if let (Some(span), Some(mask)) = (&self.span, &mask) {
            write_excerpt(f, "-->", span, mask, label.as_deref())?;
        } else if let Some(label) = label {
            writeln!(f, "  = {label}")?;
        }
        if let Some((span, what)) = &self.related {
            write_excerpt(f, ":::", span, &Mask::new(&span.file), Some(what))?;
        }
        if let Some(hint) = self.hint.as_deref().map(shown) {
            if let Some(span) = self.related.as_ref().map(|(s, _)| s).or(self.span.as_ref()) {
                let width = span.line_column().0.to_string().len();
                writeln!(f, "{:width$} |", "")?;
            }
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

fn write_excerpt(
    f: &mut fmt::Formatter<'_>,
    arrow: &str,
    span: &Span,
    mask: &Mask<'_>,
    label: Option<&str>,
) -> fmt::Result {
    let (line, column) = span.line_column();
    let width = line.to_string().len();
    writeln!(f, "{:width$}{arrow} {}:{line}:{column}", "", span.file.path.display())?;
    let text = mask.line(line - 1);
    let start = span.range.start.min(span.file.text.len());
    let end = span.range.end.clamp(start, span.file.text.len());
    let first =
        span.file.text.get(start..end).unwrap_or_default().lines().next().unwrap_or_default();
    let room = text.chars().count().saturating_sub(column - 1).max(1);
    let carets = "^".repeat(first.chars().count().clamp(1, room));
    let indent: String =
        text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    writeln!(f, "{:width$} |", "")?;
    writeln!(f, "{line} | {text}")?;
    write!(f, "{:width$} | {indent}{carets}", "")?;
    match label {
        Some(label) => writeln!(f, " {label}"),
        None => writeln!(f),
    }
}

/// A text that quotes `file` as people may see it: without the secrets of the file.
pub(crate) fn shown(text: &str, file: &SourceText) -> String {
    Mask::new(file).message(text)
}

/// One or more diagnostics; what planning fails with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Takes the value, or keeps what was wrong.
    pub fn ok<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errors) => {
                self.0.extend(errors.0);
                None
            }
        }
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            d.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate nearest to `name` within two edits (three for names of eight and more
/// characters), the alphabetically first of several.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = if name.chars().count() >= 8 { 3 } else { 2 };
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|&(d, c)| d > 0 && d <= limit && d < c.chars().count())
        .min()
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests;
