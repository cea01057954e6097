//! What is wrong with a configuration, and how it is shown: file, line, column, the line with the place underlined, and
//! what to write instead.
//!
//! While files are being read a finding is a [`Fault`], a few numbers and words. At the end those are joined with the
//! text of the lines they speak of, so that a [`Diagnostic`] stands on its own: it can outlive the files' text, and a
//! rendering costs as much as its line is long, not its file. The drawing is done by annotate-snippets, rustc's own.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use super::source::{Lines, Source, Span};

/// Errors, or warnings, in the order of the files and of their lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    path: String,
    place: Option<Place>,
    also: Vec<(String, Place)>,
    help: Option<String>,
}

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// It can, but is probably not what is meant.
    Warning,
}

/// One line of a file, and a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    text: String,
    /// Bytes of `text`.
    range: Range<usize>,
    label: String,
}

impl Diagnostics {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// All of them as text, with an empty line between two; `color` adds ANSI colours.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            out.push_str(&diagnostic.draw(&renderer));
            out.push('\n');
        }
        out
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The file, as it was named.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Counted from 1; `None` when the whole file is meant.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// What to write instead, if that can be said.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn draw(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&self.message));
        match &self.place {
            Some(place) => group = group.element(place.snippet(&self.path, AnnotationKind::Primary)),
            None => group = group.element(Origin::path(&self.path)),
        }
        for (path, place) in &self.also {
            group = group.element(place.snippet(path, AnnotationKind::Context));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        renderer.render(&[group])
    }
}

impl Place {
    fn snippet<'a>(&'a self, path: &'a str, kind: AnnotationKind) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let label = (!self.label.is_empty()).then_some(self.label.as_str());
        Snippet::source(self.text.as_str())
            .path(path)
            .line_start(self.line)
            .annotation(kind.span(self.range.clone()).label(label))
    }
}

/// A finding, while files are being read.
#[derive(Debug)]
pub(super) struct Fault {
    severity: Severity,
    kind: Kind,
    message: String,
    pub(super) span: Span,
    label: String,
    also: Vec<(Span, String)>,
    help: Option<String>,
}

/// Whether a finding may be only the consequence of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text is not TOML.
    Syntax,
    /// A bracket is never closed, so that all below it was misread.
    Open,
    /// What stands there is wrong in itself.
    Plain,
    /// Something is missing or unknown, which may well stand in the part that could not be read.
    Absence,
}

/// So many bytes of a secret in a row are a part of it.
const PIECE: usize = 6;

impl Fault {
    /// Says `name` where it would say `value`.
    pub(super) fn hide(&mut self, value: &str, name: &str) {
        let also = self.also.iter_mut().map(|(_, text)| text);
        let texts = [&mut self.message, &mut self.label].into_iter().chain(&mut self.help).chain(also);
        texts.filter(|text| text.contains(value)).for_each(|text| *text = text.replace(value, name));
    }

    /// Says of the value no more than where it stands: what is made of it may be a part of it.
    pub(super) fn hide_all(&mut self) {
        "what the environment brings into this value can't stand here".clone_into(&mut self.message);
        self.label.clear();
        self.help = None;
        self.also.clear();
    }

    /// Whether it shows any piece of this text.
    pub(super) fn shows(&self, value: &str) -> bool {
        let texts =
            [&self.message, &self.label].into_iter().chain(&self.help).chain(self.also.iter().map(|(_, text)| text));
        let value = value.to_ascii_lowercase();
        let shown = texts.map(|text| text.to_ascii_lowercase()).collect::<Vec<_>>();
        let pieces = (0..value.len()).filter_map(|at| value.get(at..at + PIECE));
        pieces.into_iter().any(|piece| shown.iter().any(|text| text.contains(piece)))
    }

    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            kind: Kind::Plain,
            message: message.into(),
            span,
            label: String::new(),
            also: Vec::new(),
            help: None,
        }
    }

    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    pub(super) fn syntax(span: Span, message: impl Into<String>) -> Self {
        Self { kind: Kind::Syntax, ..Self::error(span, message) }
    }

    pub(super) fn open_bracket(span: Span, message: impl Into<String>) -> Self {
        Self { kind: Kind::Open, ..Self::error(span, message) }
    }

    /// The fault is that something is not there: not worth a word while some text could not be read.
    pub(super) fn absence(mut self) -> Self {
        self.kind = Kind::Absence;
        self
    }

    /// Words beside the underlined place.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// A second place that has to do with it.
    pub(super) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }

    /// What to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Every fault found so far. Whoever finds one notes it and goes on.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub(super) fn note(&self, fault: Fault) {
        self.0.borrow_mut().push(fault);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Forgets those after the first `len`.
    pub(super) fn truncate(&self, len: usize) {
        self.0.borrow_mut().truncate(len);
    }

    /// (errors, warnings). Where text could not be read as TOML, what may only follow from that is left out.
    pub(super) fn finish(self, sources: &[&Source]) -> (Diagnostics, Diagnostics) {
        let mut faults = self.0.into_inner();
        faults.sort_by_key(|fault| (fault.span.file, fault.span.start, fault.span.end));
        let mut lines: Vec<Option<Lines>> = sources.iter().map(|_| None).collect();
        let mut find = |span: Span, label: String| -> (String, Option<Place>) {
            let index = span.file as usize;
            let Some((source, lines)) = sources.get(index).zip(lines.get_mut(index)) else {
                return (String::new(), None);
            };
            let path = source.path.display().to_string();
            if span.is_whole_file() {
                return (path, None);
            }
            let lines = lines.get_or_insert_with(|| Lines::new(&source.text));
            let (line, text, range) = lines.locate(&source.text, span.start as usize..span.end as usize);
            (path, Some(Place { line, text: text.to_owned(), range, label }))
        };

        let mut broken_lines = Vec::new();
        let mut open = Vec::new();
        for fault in faults.iter().filter(|fault| matches!(fault.kind, Kind::Syntax | Kind::Open)) {
            if fault.kind == Kind::Open {
                open.push(fault.span);
            }
            if let (_, Some(place)) = find(fault.span, String::new()) {
                broken_lines.push((fault.span.file, place.line));
            }
        }
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        for fault in faults {
            let (path, place) = find(fault.span, fault.label);
            let line = place.as_ref().map(|place| place.line);
            let follows = match fault.kind {
                Kind::Syntax | Kind::Open => false,
                Kind::Absence => !broken_lines.is_empty(),
                Kind::Plain => {
                    line.is_some_and(|line| broken_lines.contains(&(fault.span.file, line)))
                        || open.iter().any(|open| open.file == fault.span.file && open.start < fault.span.start)
                }
            };
            if follows {
                continue;
            }
            let also = fault.also.into_iter().filter_map(|(span, label)| {
                let (path, place) = find(span, label);
                Some((path, place?))
            });
            let diagnostic = Diagnostic {
                severity: fault.severity,
                message: fault.message,
                path,
                place,
                also: also.collect(),
                help: fault.help,
            };
            match fault.severity {
                Severity::Error => errors.push(diagnostic),
                Severity::Warning => warnings.push(diagnostic),
            }
        }
        errors.dedup();
        (Diagnostics(errors), Diagnostics(warnings))
    }
}
