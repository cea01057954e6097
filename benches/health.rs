//! What checking 1,000 backends every 2 s costs, and how evenly the checks are spread.
//!
//! `cargo bench --bench health`. The backends live in a process of their own: 1,000 listeners, one thread. They note
//! when each check arrives, so the spread is what the network sees, timers and all. The prober's thread is charged
//! with all it does in user and system time (`CLOCK_THREAD_CPUTIME_ID`). The claims: at most 5 % of a core, and after
//! the first round no window of 50 ms with more than twice the mean.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use shardgate::backend::{Identity, Registry, Status};
use shardgate::health::Prober;
use shardgate::model::{Address, HealthCheck, HttpCheck, Protocol, StatusRange};
use shardgate::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BACKENDS: usize = 1_000;
const MEASURED: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_millis(50);

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    match std::env::args().nth(1).as_deref() {
        Some("backends") => run(backends()),
        Some("--bench") => {
            for http in [true, false] {
                run(probe(http));
            }
        }
        // Under `cargo test` there is nothing to do.
        _ => {}
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.expect("a runtime").block_on(future);
}

/// Serves until standard input speaks, then tells how many checks arrived since it spoke first, and in how crowded a
/// window at most.
async fn backends() {
    let arrivals = Rc::new(RefCell::new(Vec::<Instant>::new()));
    let mut ports = Vec::new();
    for _ in 0..BACKENDS {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        ports.push(listener.local_addr().expect("an address").port().to_string());
        let arrivals = arrivals.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let arrivals = arrivals.clone();
                tokio::task::spawn_local(async move {
                    let accepted = Instant::now();
                    let mut bytes = [0; 1024];
                    let mut asked = false;
                    while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                        arrivals.borrow_mut().push(Instant::now());
                        asked = true;
                        // A check is far smaller than the buffer and comes in one piece.
                        assert!(bytes[..n].ends_with(b"\r\n\r\n"), "a whole request");
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                            break;
                        }
                    }
                    if !asked {
                        arrivals.borrow_mut().push(accepted);
                    }
                });
            }
        });
    }
    println(&ports.join(" "));
    word().await;
    arrivals.borrow_mut().clear();
    word().await;
    let mut arrivals = arrivals.take();
    arrivals.sort();
    let (mut from, mut most) = (0, 0);
    for (i, at) in arrivals.iter().enumerate() {
        while *at - arrivals[from] >= WINDOW {
            from += 1;
        }
        most = most.max(i + 1 - from);
    }
    println(&format!("{} {most}", arrivals.len()));
}

/// Waits for a byte on standard input, on a thread that may block.
async fn word() {
    let read = || std::io::stdin().lock().read_exact(&mut [0]);
    tokio::task::spawn_blocking(read).await.expect("a thread").expect("a word");
}

/// The backends' process.
struct Backends {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Backends {
    fn start() -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg("backends").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the backends");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, output }
    }

    fn line(&mut self) -> Vec<usize> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    fn speak(&mut self) {
        self.child.stdin.as_mut().expect("its input").write_all(b".").expect("a word");
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks them all, and prints what it cost.
async fn probe(http: bool) {
    let mut backends = Backends::start();
    let check = HttpCheck { path: "/healthz".into(), expect: StatusRange::default() };
    let settings = HealthCheck { http: http.then_some(check), ..HealthCheck::default() };
    let mut registry = Registry::default();
    let checks: Vec<_> = backends
        .line()
        .into_iter()
        .map(|port| {
            let address = Address::Ip(SocketAddr::from(([127, 0, 0, 1], port as u16)));
            let identity = Identity { region: "north".into(), address, protocol: Protocol::H1, tls: None };
            let backend = registry.backend(identity);
            registry.check(&backend, &settings, Instant::now())
        })
        .collect();

    let (facts, mut transitions) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move { while transitions.recv().await.is_some() {} });
    let metrics = Metrics::new(1);
    let prober = Prober::spawn(facts, Arc::clone(&metrics));
    let (began, cpu) = (Instant::now(), cpu_time());
    prober.set(checks.clone());
    prober.first_round().await;
    let up = checks.iter().filter(|check| check.status() == Status::Up).count();
    let what = if http { "HTTP, connections kept" } else { "TCP connect" };
    println(&format!("{what}: {up} of {BACKENDS} up after {:.2?}, {:.1?} of CPU", began.elapsed(), cpu_time() - cpu));

    // The first round may be quicker than the rest; it is followed by a whole interval before measuring.
    tokio::time::sleep(settings.interval * 2).await;
    backends.speak();
    let (began, cpu) = (Instant::now(), cpu_time());
    tokio::time::sleep(MEASURED).await;
    let (took, cpu) = (began.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
    backends.speak();
    let [arrived, most] = backends.line()[..] else { panic!("two numbers") };
    let mean = arrived as f64 / took * WINDOW.as_secs_f64();
    println(&format!(
        "  {:.2} % of a core, {:.1} us per check, {arrived} checks in {took:.1} s; busiest 50 ms: {most}, {:.2} times the mean",
        cpu / took * 100.0,
        cpu / arrived as f64 * 1e6,
        most as f64 / mean,
    ));
    let failures: u64 = checks.iter().map(|check| check.failures()).sum();
    let late = metrics.encode().lines().filter(|line| line.contains("health_checks_")).collect::<Vec<_>>().join("; ");
    println(&format!("  {failures} failures; late: {}", if late.is_empty() { "none" } else { &late }));
}

/// User and system time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn println(line: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
