//! What a large configuration costs: 10 to 1,000,000 pools (each asset in 10 regions) over a tenth as many backends, in
//! one file of TOML; a single pool of one more asset stands in a file that it includes.
//!
//! `cargo bench --bench scale`. Each size runs in a process of its own, so that the peak of memory (`VmHWM` of
//! `proc_pid_status(5)`) is its own. `load` is files to Plan; `build` is Plan to the Snapshot in force, by the steps that
//! the daemon takes. `after` is what is resident when the allocator has given back what it does not need. `flip` is a
//! fact about one backend, whose thirty pools are spread over all pages, from the fact to the Snapshot in force. `drain`
//! and `ready` are an operator's word about a tenth of the pools, done in slices between which other things come. `reload`
//! reads everything again after a change of the included file; of that, only `check` and `publish` are done on the
//! control plane's own thread, and only `publish` is a moment of which requests could notice anything.
//!
//! The backends are checked, but nobody drives the runtime that would do it: nothing is connected to.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use shardgate::backend::{Cause, Check, Status};
use shardgate::config;
use shardgate::control::{Author, Board, Change, Controller, Request, Settled, States};
use shardgate::health::{Prober, Transition};
use shardgate::model::{Operator, Plan, PoolId, Target};
use shardgate::routing::{Index, Table, build};
use shardgate::telemetry::Metrics;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const POOLS: [usize; 4] = [10, 10_000, 100_000, 1_000_000];
const REGIONS: usize = 10;
const FLIPS: usize = 101;
const RELOADS: usize = 3;
/// What the allocator does not need it gives back within ten seconds.
const GIVEN_BACK: Duration = Duration::from_secs(13);

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("measure") => measure(Path::new(&arguments[2])),
        Some("--bench") => {
            for pools in POOLS {
                let directory = tempfile::tempdir().expect("a directory");
                let file = directory.path().join("main.toml");
                std::fs::write(&file, text(pools)).expect("a file");
                println(&format!("{pools} pools"));
                let program = std::env::current_exe().expect("this program");
                let status = std::process::Command::new(program).arg("measure").arg(&file).status();
                assert!(status.expect("a process").success(), "it ends well");
            }
        }
        // Under `cargo test` there is nothing to do.
        _ => {}
    }
}

fn text(pools: usize) -> String {
    let mut random = fastrand::Rng::with_seed(1);
    let per_region = (pools / 10 / REGIONS).max(3);
    let mut text = String::from(
        "include = [\"more.toml\"]\n[server]\ndefault_region = \"region-0\"\n[[listeners]]\nbind = \"127.0.0.1:0\"\n\
         [[routes]]\npath = \"/v1/{asset}\"\n",
    );
    for region in 0..REGIONS {
        let _ = writeln!(text, "[regions.region-{region}]\nfallback = [\"region-{}\"]", (region + 1) % REGIONS);
    }
    for pool in 0..pools {
        let (asset, region) = (pool / REGIONS, pool % REGIONS);
        // The first of each pool goes round, so that every backend is in use.
        let first = asset % per_region;
        let [one, two, three] = [first, (first + random.usize(1..per_region)) % per_region, random.usize(..per_region)]
            .map(|n| format!("\"10.{region}.{}.{}:8000\"", n / 250, n % 250 + 1));
        let three = if three == one || three == two { format!("\"10.{}.0.1:8000\"", 20 + region) } else { three };
        let _ =
            writeln!(text, "[pools.SYM{asset:06}.region-{region}]\nprimaries = [{one}, {two}]\nreplicas = [{three}]");
    }
    text
}

/// The included file, each time with another weight.
fn write_more(main: &Path, weight: usize) {
    let pool = format!("[pools.MORE.region-0]\nprimaries = [{{ address = \"10.0.0.1:8000\", weight = {weight} }}]\n");
    std::fs::write(main.with_file_name("more.toml"), pool).expect("a file");
}

fn measure(file: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let metrics = Metrics::new(10_000);
    let (facts, _transitions) = tokio::sync::mpsc::channel(64);
    let prober = Prober::spawn(facts, Arc::clone(&metrics));

    write_more(file, 1);
    let began = Instant::now();
    let plan = load(file);
    let loaded = began.elapsed();
    let index = Arc::new(Index::new(Arc::new(plan.of_nothing())));
    let table = Arc::new(Table::new(build(index, 0, Instant::now(), |_| Default::default())));
    let mut controller = Controller::new(Arc::clone(&table), metrics, prober, Board::new(States::default()));
    let (settled, _) = steps(&mut controller, plan);
    controller.publish(settled);
    let built = began.elapsed() - loaded;
    let cpu = cpu_time();
    drop(controller.tick());
    println(&format!(
        "  load {loaded:.2?}, build {built:.2?}, of CPU {cpu:.2?}; {} backends; peak {} MB, after {} MB",
        controller.backends(),
        memory("VmHWM:"),
        settled_memory(),
    ));

    let mut random = fastrand::Rng::with_seed(2);
    let mut flips: Vec<_> = (0..FLIPS)
        .map(|_| {
            let snapshot = table.load();
            let pool = snapshot.pool(PoolId(random.u32(..snapshot.index.plan.pools.len() as u32)));
            let check = Arc::clone(pool.tiers[0].servers[0].check.as_ref().expect("it is checked"));
            drop(snapshot);
            let took = flip(&mut controller, check);
            drop(controller.tick());
            took
        })
        .collect();
    flips.sort();
    println(&format!("  flip: median {:.2?}, longest {:.2?}", flips[FLIPS / 2], flips[FLIPS - 1]));

    for round in 0..RELOADS {
        // Begins the peak anew: proc_pid_clear_refs(5).
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        write_more(file, 2 + round);
        let began = Instant::now();
        let plan = load(file);
        let loaded = began.elapsed();
        let (settled, [staged, checked, judged]) = steps(&mut controller, plan);
        let before = Instant::now();
        let summary = controller.publish(settled);
        let published = before.elapsed();
        assert_eq!((summary.added, summary.changed, summary.removed), (0, 1, 0), "one pool");
        let peak = memory("VmHWM:");
        let before = Instant::now();
        drop(controller.tick());
        let freed = before.elapsed();
        println(&format!(
            "  reload: load {loaded:.2?}, stage {staged:.2?}, check {checked:.2?}, settle {judged:.2?}, \
             publish {published:.2?}, free {freed:.2?}; peak {peak} MB",
        ));
    }
    println(&format!("  after the reloads {} MB", settled_memory()));

    let _ = std::fs::write("/proc/self/clear_refs", "5");
    for state in [Operator::Drain, Operator::Ready] {
        let mut slices: Vec<_> = (0..REGIONS).map(|region| sweep(&mut controller, region, state)).collect();
        let first = slices.first().map(|slices| slices.iter().sum::<Duration>()).unwrap_or_default();
        let all: Vec<_> = slices.drain(..).flatten().collect();
        let (sum, longest) = (all.iter().sum::<Duration>(), all.iter().max().copied().unwrap_or_default());
        println(&format!(
            "  {} of a region {first:.2?}, of all {sum:.2?} in {} slices, the longest {longest:.2?}; peak {} MB",
            state.as_str(),
            all.len(),
            memory("VmHWM:"),
        ));
    }
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn load(file: &Path) -> Arc<Plan> {
    match config::load(file) {
        Ok(loaded) => Arc::new(loaded.plan),
        Err(errors) => panic!("{errors}"),
    }
}

/// The steps of a Plan up to the last, and how long each took.
fn steps(controller: &mut Controller, plan: Arc<Plan>) -> (Settled, [Duration; 3]) {
    let began = Instant::now();
    let staged = controller.stage(plan, Vec::new()).expect("none is on its way").run();
    let (stage, began) = (began.elapsed(), Instant::now());
    drop(controller.check(staged));
    let (check, began) = (began.elapsed(), Instant::now());
    let settled = controller.settle().expect("one is on its way").run();
    (settled, [stage, check, began.elapsed()])
}

fn flip(controller: &mut Controller, check: Arc<Check>) -> Duration {
    let from = check.status();
    let to = if from == Status::Up { Status::Down(Cause::Timeout) } else { Status::Up };
    check.set(to, Instant::now());
    let began = Instant::now();
    controller.transition(&Transition { check, from, to, clears: false, is_back: false });
    controller.flush();
    began.elapsed()
}

/// An operator's word about a region: how long each slice of it keeps the control plane.
fn sweep(controller: &mut Controller, region: usize, state: Operator) -> Vec<Duration> {
    let (reply, _told) = tokio::sync::oneshot::channel();
    let target = Target::Region(format!("region-{region}").into());
    let change = Change { target, state, author: Author::default() };
    let mut slices = Vec::new();
    let mut began = Instant::now();
    assert!(controller.operate(Request { change, reply }).is_none(), "it takes a while");
    while controller.is_sweeping() {
        let done = controller.sweep();
        slices.push(began.elapsed());
        assert_eq!(done.is_some(), !controller.is_sweeping());
        began = Instant::now();
    }
    drop(controller.tick());
    slices
}

/// Megabytes that stay resident. A little work now and then, as in the daemon.
fn settled_memory() -> usize {
    let until = Instant::now() + GIVEN_BACK;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        drop(std::hint::black_box(vec![0u8; 1 << 16]));
    }
    memory("VmRSS:")
}

/// A line of this process's status, in megabytes.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes / 1000
}

fn println(line: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
