//! What is wrong with a file, where, and what to do: as data, and as text with the line and a caret.

use std::fmt::Write as _;
use std::ops::Range;

use semel_core::code::Code;

use crate::source::{Position, Source};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding; `semel explain CODE` has its page.
    pub code: Code,
    /// What is wrong, in one sentence without a final stop.
    pub message: String,
    /// Bytes of the file it is about; `None` for the file as a whole.
    pub span: Option<Range<usize>>,
    /// Another place that takes part, and what is there.
    pub related: Option<(Range<usize>, String)>,
    /// What to do, and which values or names are known.
    pub help: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used.
    Warning,
}

/// Colour only on a terminal: the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// ANSI escapes.
    On,
    /// Plain text.
    Off,
}

impl Diagnostic {
    pub(crate) fn error(code: Code, span: Range<usize>, message: impl Into<String>) -> Self {
        let severity = Severity::Error;
        Self { severity, code, message: message.into(), span: Some(span), related: None, help: None }
    }

    pub(crate) fn warning(code: Code, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn related(self, span: Range<usize>, what: impl Into<String>) -> Self {
        Self { related: Some((span, what.into())), ..self }
    }
}

/// All findings about one file, errors first, each kind in the order of the file.
#[derive(Clone, Debug)]
pub struct Report {
    source: Source,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(crate) fn new(source: Source, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|d| (d.severity == Severity::Warning, d.span.as_ref().map(|s| s.start)));
        Self { source, diagnostics }
    }

    /// The findings.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Where a finding stands.
    #[must_use]
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<Position> {
        diagnostic.span.as_ref().map(|span| self.source.position(span.start))
    }

    /// All findings as text, with a last line that counts them. Ends with a line feed unless empty.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            self.render_one(&mut out, diagnostic, colour);
            out.push('\n');
        }
        if let Some(first) = self.diagnostics.first() {
            let errors = self.diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
            let warnings = self.diagnostics.len() - errors;
            let counted = [count(errors, "error"), count(warnings, "warning")].into_iter().flatten();
            let counted = counted.collect::<Vec<_>>().join(", ");
            let _ = writeln!(out, "{counted}; `semel explain {}` tells more", first.code);
        }
        out
    }

    fn render_one(&self, out: &mut String, d: &Diagnostic, colour: Colour) {
        let (word, paint) = match d.severity {
            Severity::Error => ("error", "\x1b[1;31m"),
            Severity::Warning => ("warning", "\x1b[1;33m"),
        };
        let (paint, bold, blue, reset) = match colour {
            Colour::On => (paint, "\x1b[1m", "\x1b[34m", "\x1b[0m"),
            Colour::Off => ("", "", "", ""),
        };
        let _ = writeln!(out, "{paint}{word}[{}]{reset}{bold}: {}{reset}", d.code, d.message);
        let lines = [d.span.as_ref(), d.related.as_ref().map(|(span, _)| span)].into_iter().flatten();
        let last = lines.map(|span| self.source.line(span.start)).max().unwrap_or(0);
        let gutter = " ".repeat(last.to_string().len());
        match &d.span {
            Some(span) => self.snippet(out, span, "", &gutter, paint, (blue, reset)),
            None => {
                let _ = writeln!(out, "{blue}-->{reset} {}", self.source.name);
            }
        }
        if let Some((span, what)) = &d.related {
            self.snippet(out, span, what, &gutter, blue, (blue, reset));
        }
        if let Some(help) = &d.help {
            let _ = writeln!(out, "{gutter} {blue}={reset} {help}");
        }
    }

    fn snippet(
        &self,
        out: &mut String,
        span: &Range<usize>,
        label: &str,
        gutter: &str,
        paint: &str,
        (blue, reset): (&str, &str),
    ) {
        let Position { line, column } = self.source.position(span.start);
        let (text, part) = self.source.first_line(span);
        // Tabs stay tabs, so that the caret stands below its character whatever a tab is worth.
        let indent: String = text[..part.start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(text[part].chars().count().max(1));
        let gap = if label.is_empty() { "" } else { " " };
        let _ = writeln!(out, "{gutter}{blue}-->{reset} {}:{line}:{column}", self.source.name);
        let _ = writeln!(out, "{gutter} {blue}|{reset}");
        let _ = writeln!(out, "{blue}{line:>width$} |{reset} {text}", width = gutter.len());
        let _ = writeln!(out, "{gutter} {blue}|{reset} {indent}{paint}{carets}{gap}{label}{reset}");
    }
}

fn count(n: usize, what: &str) -> Option<String> {
    match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    }
}

/// The name in `known` that `given` most likely meant, if any is near enough.
pub(crate) fn did_you_mean<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = |name: &&&str| strsim::damerau_levenshtein(given, name);
    known.iter().min_by_key(near).filter(|name| near(name) <= given.chars().count().max(3) / 3).copied()
}

/// "did you mean `x`? Known here: …"
pub(crate) fn known_names(given: &str, known: &[&str], place: &str) -> String {
    let list = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    let list = if known.is_empty() { format!("{place}: none") } else { format!("{place}: {list}") };
    match did_you_mean(given, known) {
        Some(near) => format!("did you mean `{near}`? {list}"),
        None => list,
    }
}
