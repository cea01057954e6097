//! The command line: what is asked for, and the exit code that tells how it went.
//!
//! 0 done, 1 the configuration or the request is wrong, 2 usage (clap's own), 3 a listener can't be bound, 4 anything
//! else. What was asked for goes to standard output, errors to standard error.

mod admin;
mod admin_tls;
mod check;
mod demo;
mod explain;
mod fault;
mod man;
mod operator;
mod serve;
mod status;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use fault::Fault;

use crate::config;
use crate::model::Operator;

/// Where the configuration is unless said otherwise.
const DEFAULT_CONFIG: &str = "/etc/shardgate/shardgate.toml";

/// Where the admin address is unless said otherwise.
const DEFAULT_ADMIN: &str = "127.0.0.1:9600";

#[derive(Debug, Parser)]
#[command(name = "shardgate", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, in the foreground
    Run {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Serve at once, with sample backends and nothing to configure
    Demo {
        /// Where the proxy listens
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
        listen: String,
        /// Where the admin address listens
        #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN, value_parser = address)]
        admin: String,
    },
    /// Check a configuration: a summary, or every error
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Say which route, key, pool, tiers and backend a request would get, and why
    #[command(override_usage = "shardgate explain [OPTIONS] [METHOD] <URL>")]
    Explain {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        request: explain::Request,
    },
    /// Ask the running daemon to read its configuration again
    Reload {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show regions, pools and backends of the running daemon
    Status {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Take a region, a pool or a backend out: it finishes what it has and gets nothing new
    Drain {
        /// REGION, ASSET/REGION, or ASSET/REGION/ADDRESS
        target: String,
        /// It is being worked on: the same, and shown as that
        #[arg(long)]
        maintenance: bool,
        /// Why, for the audit and for whoever looks at `status`
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Bring a region, a pool or a backend back
    Ready {
        /// REGION, ASSET/REGION, or ASSET/REGION/ADDRESS
        target: String,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print a JSON Schema of the configuration file, for editors
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff)
    Man,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// How to reach the running daemon.
#[derive(Debug, Args)]
struct Daemon {
    /// Its admin address: HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: String,
    /// A file that holds the admin token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: admin_tls::AdminTls,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Does what the arguments of this process say.
pub fn run() -> ExitCode {
    match Cli::parse().command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // There is nobody left to tell when standard error is gone, too.
            let _ = std::io::stderr().lock().write_all(fault.to_string().as_bytes());
            fault.code()
        }
    }
}

impl Command {
    fn execute(self) -> Result<(), Fault> {
        match self {
            Self::Run { file } => serve::run(&file.config),
            Self::Demo { listen, admin } => serve::demo(&listen, &admin),
            Self::Check { file } => check::check(&file.config),
            Self::Explain { file, request } => explain::explain(&file.config, &request),
            Self::Schema => print(serde_json::to_string_pretty(&config::schema())? + "\n"),
            Self::Reload { daemon } => admin::reload(&daemon),
            Self::Status { daemon } => admin::status(&daemon),
            Self::Drain { target, maintenance, reason, daemon } => {
                let state = if maintenance { Operator::Maintenance } else { Operator::Drain };
                operator::operate(&daemon, &target, state, reason.as_deref())
            }
            Self::Ready { target, reason, daemon } => {
                operator::operate(&daemon, &target, Operator::Ready, reason.as_deref())
            }
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "shardgate", &mut script);
                print(&script)
            }
            Self::Man => print(man::page(Cli::command())?),
        }
    }
}

/// Of a listener of the demo, whose configuration nobody has, so that nothing in it can be pointed at.
fn address(text: &str) -> Result<String, &'static str> {
    let is_path = |path: &str| !path.is_empty() && !path.contains(|c: char| c.is_control() || "\"\\".contains(c));
    let is_one = text.parse::<SocketAddr>().is_ok() || text.strip_prefix("unix:").is_some_and(is_path);
    is_one.then(|| text.to_owned()).ok_or("neither IP:PORT nor unix:PATH")
}

/// To standard output. A reader that has gone away (`| head`) is no fault.
fn print(text: impl AsRef<[u8]>) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The daemon's answer as it came, and the end of a line, so that what comes next begins on one of its own.
fn print_json(answer: &[u8]) -> Result<(), Fault> {
    print([answer, b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
