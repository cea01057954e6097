//! What every section needs while it is decoded: a place to note faults, the directories that relative paths start at,
//! and the environment.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::diagnostic::{Fault, Faults};
use super::source::{Source, Span};
use super::trust::Trust;

/// How `${NAME}` is looked up.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

/// See the module.
pub(super) struct Context<'e> {
    pub(super) faults: Faults,
    pub(super) environment: Environment<'e>,
    /// Captures that pools hash on: `path` or `host`, a name, and where it was first named. Routes are read later.
    pub(super) captures: RefCell<BTreeMap<(&'static str, String), Span>>,
    /// What TLS to backends is made of.
    pub(super) trust: Trust,
    /// Values that something of the environment was put into, by their file and the byte at which they start.
    from_environment: RefCell<HashSet<(u32, u32)>>,
    /// What was put into them: names of variables, and their values, which may be secrets.
    variables: RefCell<BTreeMap<String, String>>,
    /// Of each file, by its number.
    directories: Vec<PathBuf>,
}

/// A shorter value is hidden nowhere: it would be found in words.
const SHORT: usize = 4;
/// A value that is as long as this is hidden in what is said of other places, too. A shorter one (a region, "pool") may well
/// be meant there.
const WORD: usize = 8;

impl<'e> Context<'e> {
    pub(super) fn new(environment: Environment<'e>) -> Self {
        Self {
            faults: Faults::default(),
            environment,
            captures: RefCell::default(),
            trust: Trust::default(),
            from_environment: RefCell::default(),
            variables: RefCell::default(),
            directories: Vec::new(),
        }
    }

    /// The next file's number.
    pub(super) fn add_file(&mut self, source: &Source) -> u32 {
        self.directories.push(source.dir().to_owned());
        u32::try_from(self.directories.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn note(&self, mut fault: Fault) {
        let is_own = self.is_from_environment(fault.span);
        let shortest = if is_own { SHORT } else { WORD };
        let variables = self.variables.borrow();
        for (name, value) in variables.iter().filter(|(_, value)| value.len() >= shortest) {
            fault.hide(value, &format!("${{{name}}}"));
        }
        if is_own && variables.values().any(|value| fault.shows(value)) {
            fault.hide_all();
        }
        self.faults.note(fault);
    }

    /// Whether a variable was put into the value that starts there.
    pub(super) fn is_from_environment(&self, span: Span) -> bool {
        self.from_environment.borrow().contains(&(span.file, span.start))
    }

    /// The value that starts at `span` has this variable in it. From now on no finding shows its value.
    pub(super) fn note_variable(&self, span: Span, name: &str, value: &str) {
        self.from_environment.borrow_mut().insert((span.file, span.start));
        self.variables.borrow_mut().insert(name.to_owned(), value.to_owned());
    }

    /// A pool hashes on a capture, which some route must have.
    pub(super) fn want_capture(&self, of: &'static str, name: &str, span: Span) {
        self.captures.borrow_mut().entry((of, name.to_owned())).or_insert(span);
    }

    /// A path that stands at `span`, seen from where we run.
    pub(super) fn resolve(&self, span: Span, path: &str) -> PathBuf {
        self.directories.get(span.file as usize).map_or(Path::new(""), PathBuf::as_path).join(path)
    }

    /// That a file can't be made at this path, if its directory is not there. It is no error: the file may be checked on
    /// another machine than the one that it is for.
    pub(super) fn note_missing_directory(&self, span: Span, path: &Path) {
        if let Some(directory) =
            path.parent().filter(|directory| !directory.as_os_str().is_empty() && !directory.is_dir())
        {
            let fault = Fault::warning(span, format!("there is no directory {} on this machine", directory.display()));
            self.note(fault.help("shardgate makes files, but no directories"));
        }
    }
}
