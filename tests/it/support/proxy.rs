//! The daemon under test: the real binary, a configuration in a directory of its own, ports 0.
//!
//! Its standard error is a log of JSON lines. At start it says `listening` once per listener (fields `listener` and
//! `address`), `admin listening` (field `address`) and, when it accepts, `ready`; that is how tests learn the ports.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::certs::place;
use super::client::Fields;
use super::{Client, DEADLINE, Response, poll, poll_until};

/// A running daemon; killed on drop. A test that fails shows its log.
pub struct Proxy {
    child: Child,
    directory: Option<tempfile::TempDir>,
    stdout: Lines,
    stderr: Lines,
}

/// What may write at the admin address, where a test's configuration says [`WITH_TOKEN`] or nothing of it.
pub const TOKEN: &str = "token-of-tests";

/// Of `[admin]`: the file of it, which lies beside every configuration.
pub const WITH_TOKEN: &str = "token_file = 'token'\n";

/// The field that shows it.
pub const AUTHORIZED: (&str, &str) = ("Authorization", "Bearer token-of-tests");

/// A daemon that did not start.
#[derive(Debug)]
pub struct Failed {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard error.
    pub stderr: String,
}

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

/// Lines of a stream, collected by a thread as they come.
#[derive(Clone, Default)]
struct Lines {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

impl Lines {
    fn read(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let (state, changed) = &*writer.shared;
                state.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
                changed.notify_all();
            }
            let (state, changed) = &*writer.shared;
            state.lock().unwrap().ended = true;
            changed.notify_all();
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.shared.0.lock().unwrap().lines.clone()
    }

    /// The first line that passes; `None` when the stream has ended or the time is up.
    fn find<T>(&self, within: Duration, mut pass: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let end = Instant::now() + within;
        let (state, changed) = &*self.shared;
        let mut seen = 0;
        let mut state = state.lock().unwrap();
        loop {
            while seen < state.lines.len() {
                if let Some(found) = pass(&state.lines[seen]) {
                    return Some(found);
                }
                seen += 1;
            }
            if state.ended {
                return None;
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Proxy {
    /// Runs it on this configuration and waits until it is ready. Without an `[admin]` table it gets one on port 0, with
    /// [`TOKEN`].
    pub fn start(toml: &str) -> Self {
        Self::start_with(toml, |_| {})
    }

    /// The same, with a hand on the command (environment, file descriptors).
    pub fn start_with(toml: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        Self::try_start_with(toml, prepare).unwrap_or_else(|f| panic!("did not start: {:?}\n{}", f.code, f.stderr))
    }

    /// The same, where a refusal is an answer.
    pub fn try_start(toml: &str) -> Result<Self, Failed> {
        Self::try_start_with(toml, |_| {})
    }

    fn try_start_with(toml: &str, prepare: impl FnOnce(&mut Command)) -> Result<Self, Failed> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shardgate.toml");
        place(&directory.path().join("token"), TOKEN);
        std::fs::write(&file, with_admin(toml)).unwrap();
        let mut command = Command::new(binary());
        command.arg("run").arg("-c").arg(&file);
        prepare(&mut command);
        let mut proxy = Self::spawn(command, Some(directory));
        match proxy.wait_ready() {
            true => Ok(proxy),
            false => Err(Failed { code: proxy.wait_exit(DEADLINE).code(), stderr: proxy.log() }),
        }
    }

    /// Any command of the binary that serves (`demo`).
    pub fn command(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments);
        let mut proxy = Self::spawn(command, None);
        assert!(proxy.wait_ready(), "did not start:\n{}", proxy.log());
        proxy
    }

    /// Starts it and does not wait.
    pub fn spawn(mut command: Command, directory: Option<tempfile::TempDir>) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::read(child.stdout.take().unwrap());
        let stderr = Lines::read(child.stderr.take().unwrap());
        Self { child, directory, stdout, stderr }
    }

    fn wait_ready(&mut self) -> bool {
        self.stderr.find(DEADLINE, |line| (message(line)? == "ready").then_some(())).is_some()
    }

    /// Where the only TCP listener listens.
    pub fn address(&self) -> SocketAddr {
        let found = self.listeners();
        assert_eq!(found.len(), 1, "several listeners: name one");
        *found.values().next().unwrap()
    }

    /// Where the TCP listener of this name listens.
    pub fn addr(&self, listener: &str) -> SocketAddr {
        *self.listeners().get(listener).unwrap_or_else(|| panic!("no listener {listener}:\n{}", self.log()))
    }

    /// The same, waited for: a reload may have just added it.
    pub fn addr_soon(&self, listener: &str) -> SocketAddr {
        poll(&format!("listener {listener}"), || self.listeners().get(listener).copied())
    }

    fn listeners(&self) -> HashMap<String, SocketAddr> {
        let mut found = HashMap::new();
        for line in self.stderr.all() {
            let Some(fields) = fields(&line).filter(|f| f["message"] == "listening") else { continue };
            let address = fields["address"].as_str().and_then(|a| a.parse().ok());
            if let (Some(name), Some(address)) = (fields["listener"].as_str(), address) {
                found.insert(name.to_owned(), address);
            }
        }
        found
    }

    /// Where the admin address listens.
    pub fn admin(&self) -> SocketAddr {
        self.stderr
            .find(DEADLINE, |line| {
                let fields = fields(line).filter(|f| f["message"] == "admin listening")?;
                fields["address"].as_str()?.parse().ok()
            })
            .unwrap_or_else(|| panic!("no admin address:\n{}", self.log()))
    }

    /// A new connection to the only listener.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// A GET on a connection of its own.
    pub fn get(&self, target: &str) -> Response {
        self.client().get(target)
    }

    /// A request to the admin address.
    pub fn admin_request(&self, method: &str, target: &str) -> Response {
        Client::connect(self.admin()).request(method, target, &[("Connection", "close"), AUTHORIZED], b"")
    }

    /// The file with [`TOKEN`].
    pub fn token_file(&self) -> String {
        self.directory().join("token").display().to_string()
    }

    /// The file it reads.
    pub fn config_file(&self) -> PathBuf {
        self.directory.as_ref().expect("a daemon with a file").path().join("shardgate.toml")
    }

    /// The directory of its file.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("a daemon with a file").path()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it (SIGSTOP) and waits until every thread of it stands.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        poll("every thread to stand", || {
            let stands = |task: std::io::Result<std::fs::DirEntry>| {
                let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                stat.rsplit_once(") ").filter(|(_, rest)| rest.starts_with('T')).map(drop)
            };
            std::fs::read_dir(&tasks).unwrap().try_for_each(stands)
        });
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a new file, sends SIGHUP and waits until the reload is over. Whether it was taken.
    pub fn reload(&self, toml: &str) -> bool {
        std::fs::write(self.config_file(), with_admin(toml)).unwrap();
        let count = |result| self.metric("shardgate_config_reloads_total", &[("result", result)]);
        let before = (count("success"), count("failure"));
        self.signal(Signal::HUP);
        poll("the reload", || match (count("success") > before.0, count("failure") > before.1) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        })
    }

    /// The hash in `config_info`.
    pub fn config_hash(&self) -> String {
        let found = self.series("shardgate_config_info", &[]);
        assert_eq!(found.len(), 1, "config_info: {found:?}");
        found[0].0.iter().find(|(name, _)| name == "hash").expect("a hash").1.clone()
    }

    /// The sum of the series of this name that have these labels; 0 when there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).iter().map(|(_, value)| value).sum()
    }

    /// Waits until the sum of the series passes.
    pub fn metric_until(&self, name: &str, labels: &[(&str, &str)], pass: impl Fn(f64) -> bool) -> f64 {
        let mut last = f64::NAN;
        let found = poll_until(DEADLINE, || {
            last = self.metric(name, labels);
            pass(last).then_some(last)
        });
        found.unwrap_or_else(|| panic!("{name}{labels:?} stayed {last}"))
    }

    /// The series of this name that have these labels: all labels, and the value.
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(Fields, f64)> {
        let page = self.admin_request("GET", "/metrics");
        assert_eq!(page.status, 200, "/metrics: {}", page.text());
        let text = page.text();
        let mut found = Vec::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((this, has, value)) = sample(line) else { panic!("not a sample: {line}") };
            let wanted = |(n, v): &(&str, &str)| has.iter().any(|(hn, hv)| hn == n && hv == v);
            if this == name && labels.iter().all(wanted) {
                found.push((has, value));
            }
        }
        found
    }

    /// Waits for a log line with this message and gives its fields.
    pub fn log_line(&self, text: &str) -> Value {
        self.log_where(text, |_| true)
    }

    /// Waits for a log line with this message whose fields pass.
    pub fn log_where(&self, text: &str, pass: impl Fn(&Value) -> bool) -> Value {
        self.stderr
            .find(DEADLINE, |line| fields(line).filter(|f| f["message"] == text && pass(f)))
            .unwrap_or_else(|| panic!("no log line {text:?}:\n{}", self.log()))
    }

    /// Waits for a log line with this text in it. A line may come after the answer that tells of the same.
    pub fn log_says(&self, text: &str) {
        let found = self.stderr.find(DEADLINE, |line| line.contains(text).then_some(()));
        assert!(found.is_some(), "no log line says {text:?}:\n{}", self.log());
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.stderr.all().join("\n")
    }

    /// What it wrote to standard output.
    pub fn output(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// The access log so far.
    pub fn access_lines(&self) -> Vec<Value> {
        let lines = self.stdout.all();
        lines.iter().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// Waits for an access line that passes.
    pub fn access_where(&self, pass: impl Fn(&Value) -> bool) -> Value {
        self.stdout
            .find(DEADLINE, |line| serde_json::from_str(line).ok().filter(&pass))
            .unwrap_or_else(|| panic!("no such access line:\n{}", self.stdout.all().join("\n")))
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        poll_until(within, || self.child.try_wait().unwrap())
            .unwrap_or_else(|| panic!("still running after {within:?}:\n{}", self.log()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}", self.log());
        }
    }
}

/// The binary that cargo built for this test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_shardgate")
}

/// Runs a command of the binary to its end: exit code, standard output, standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn with_admin(toml: &str) -> String {
    let has = |line: &str| line.starts_with("[admin]") || line.starts_with("admin");
    match toml.lines().map(str::trim).any(has) {
        true => toml.to_owned(),
        false => format!("{toml}\n[admin]\nbind = \"127.0.0.1:0\"\n{WITH_TOKEN}"),
    }
}

fn fields(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}

fn message(line: &str) -> Option<String> {
    fields(line)?["message"].as_str().map(str::to_owned)
}

/// `name{a="b",c="d"} 1` of the Prometheus text format.
fn sample(line: &str) -> Option<(String, Fields, f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        while !inside.starts_with('}') {
            let (label, after) = inside.trim_start_matches(',').split_once("=\"")?;
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.push((label.to_owned(), value));
            inside = &after[end + 1..];
        }
        rest = &inside[1..];
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        number => number.parse().ok()?,
    };
    Some((name.to_owned(), labels, value))
}

#[test]
fn a_sample_is_read_with_its_labels() {
    let (name, labels, value) = sample(r#"x_total{a="b\"c",d="e,f}"} 12.5"#).unwrap();
    assert_eq!((name.as_str(), value), ("x_total", 12.5));
    assert_eq!(labels, [("a".into(), "b\"c".into()), ("d".into(), "e,f}".into())]);
    assert_eq!(sample("y 3").unwrap().2, 3.0);
}
