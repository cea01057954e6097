//! Why a command failed: what is said and which exit code it gives.

use std::fmt;
use std::process::ExitCode;

/// A failed command. Its Display ends with a line end, ready for standard error.
#[derive(Debug)]
pub(super) enum Fault {
    /// The configuration or the request is wrong; the text says all that is to be said. Exit code 1.
    Wrong(String),
    /// The command line is wrong in a way that clap does not know. Exit code 2.
    Usage(String),
    /// A listener can't be bound. Exit code 3.
    Bind(String),
    /// Anything else. Exit code 4.
    Other(anyhow::Error),
}

impl Fault {
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 2,
            Self::Bind(_) => 3,
            Self::Other(_) => 4,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(text) => writeln!(f, "{}", text.trim_end_matches('\n')),
            Self::Usage(text) | Self::Bind(text) => writeln!(f, "error: {}", text.trim_end_matches('\n')),
            Self::Other(error) => writeln!(f, "error: {error:#}"),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}
