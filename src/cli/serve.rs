//! Commands that serve: `run` what a file says, `demo` what is built in.

use std::io::IsTerminal;
use std::path::Path;

use super::fault::Fault;
use super::{demo, print};
use crate::app::{self, Options, RunError, Source};

/// `shardgate run`
pub(super) fn run(config: &Path) -> Result<(), Fault> {
    serve(Options { config: Source::File(config.to_owned()), ready: Box::new(|_| ()) })
}

/// `shardgate demo`
pub(super) fn demo(listen: &str, admin: &str) -> Result<(), Fault> {
    let demo::Demo { config, lines, token: _token } = demo::start(listen, admin)?;
    let ready = move |addresses: &app::Addresses| {
        let proxy = addresses.listeners.first().map_or("", |(_, address)| address.as_str());
        // The demo serves on when nobody reads what it says.
        let program = std::env::args().next().unwrap_or_else(|| "shardgate".into());
        let _ = print(lines.invitation(&program, proxy, addresses.admin.as_deref().unwrap_or_default()));
    };
    serve(Options { config: Source::Text(config), ready: Box::new(ready) })
}

fn serve(options: Options) -> Result<(), Fault> {
    app::run(options).map_err(|error| match error {
        RunError::Config(diagnostics) => Fault::Wrong(diagnostics.render(std::io::stderr().is_terminal())),
        RunError::Bind(_) | RunError::Admin { .. } => Fault::Bind(error.to_string()),
        RunError::Other { .. } => Fault::Other(error.into()),
    })
}
