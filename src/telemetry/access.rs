//! The access log: each worker formats its lines into a ring of its own, one thread writes them.
//!
//! A ring has one writer and one reader and takes no lock on either side (`rtrb`), so a worker never waits: not for
//! another worker, not for the disk, not for whoever reads standard output. The thread looks at the rings ten times a
//! second, and at once when one is half full; so a line is at most some 100 ms late, and under load lines are written
//! in large pieces. A line that does not fit is lost and counted.

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::metrics::{Metrics, lock};
use super::record::{AccessRecord, Form, Formatter};
use super::sink::Sink;
use crate::model::{Log, LogFormat, LogSink};

/// Bytes of a worker's ring: a tenth of a second at about 30,000 lines per second.
const RING: usize = 1 << 20;

/// How late a line may be, but for the write itself.
const INTERVAL: Duration = Duration::from_millis(100);

/// The access log of the process: its thread, and what it writes to. Dropped, it writes what is there and ends.
#[derive(Debug)]
pub struct AccessWriter {
    shared: Arc<Shared>,
    thread: Thread,
}

/// What `[log] access` names, opened and not in use yet.
#[derive(Debug)]
pub struct AccessSink {
    sink: Sink,
    form: Form,
}

/// What workers, owner and thread share.
#[derive(Debug)]
struct Shared {
    /// A [`Form`]; written by `configure`, read by every line.
    form: AtomicU8,
    /// What the thread is to do besides writing lines; taken by it whole.
    orders: Mutex<Orders>,
    stop: AtomicBool,
    dropped: Arc<AtomicU64>,
}

impl Shared {
    fn form(&self) -> Form {
        match self.form.load(Ordering::Relaxed) {
            0 => Form::Off,
            1 => Form::Text,
            _ => Form::Json,
        }
    }
}

#[derive(Debug, Default)]
struct Orders {
    rings: Vec<Consumer<u8>>,
    sink: Option<Sink>,
    reopen: bool,
    flushed: Vec<SyncSender<()>>,
}

impl AccessWriter {
    /// Opens what `[log] access` names, and starts the thread.
    pub fn spawn(log: &Log, metrics: &Metrics) -> io::Result<Self> {
        let AccessSink { sink, form } = AccessSink::open(log)?;
        Self::start(sink, form, metrics.dropped_access())
    }

    fn start(sink: Sink, form: Form, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            form: AtomicU8::new(form as u8),
            orders: Mutex::default(),
            stop: AtomicBool::new(false),
            dropped,
        });
        let writer = Writer { shared: shared.clone(), rings: Vec::new(), sink };
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    /// A ring for one worker.
    pub fn worker(&self) -> AccessLog {
        self.with_ring(RING)
    }

    fn with_ring(&self, bytes: usize) -> AccessLog {
        let (producer, consumer) = RingBuffer::new(bytes);
        lock(&self.shared.orders).rings.push(consumer);
        let local = Local { ring: producer, low: bytes / 2, line: Vec::new(), formatter: Formatter::default() };
        AccessLog { shared: self.shared.clone(), writer: self.thread.clone(), local: RefCell::new(local) }
    }

    /// Goes over to what a reload has opened.
    pub fn configure(&self, next: AccessSink) {
        lock(&self.shared.orders).sink = Some(next.sink);
        self.shared.form.store(next.form as u8, Ordering::Relaxed);
        self.thread.unpark();
    }

    /// Opens the file anew, for log rotation. Returns at once; a failure is logged, and the old file stays.
    pub fn reopen(&self) {
        lock(&self.shared.orders).reopen = true;
        self.thread.unpark();
    }

    /// Waits until everything logged before this call is written, at most so long. Says whether it was.
    pub fn flush(&self, timeout: Duration) -> bool {
        let (done, flushed) = sync_channel(1);
        lock(&self.shared.orders).flushed.push(done);
        self.thread.unpark();
        flushed.recv_timeout(timeout).is_ok()
    }
}

impl Drop for AccessWriter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// One worker's end of the access log.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
    local: RefCell<Local>,
}

#[derive(Debug)]
struct Local {
    ring: Producer<u8>,
    /// With fewer free bytes than these the thread is woken.
    low: usize,
    line: Vec<u8>,
    formatter: Formatter,
}

impl AccessLog {
    /// Whether lines are wanted at all.
    pub fn enabled(&self) -> bool {
        self.shared.form() != Form::Off
    }

    /// Writes a line. Never waits.
    pub fn line(&self, record: &AccessRecord<'_>) {
        let form = self.shared.form();
        if form == Form::Off {
            return;
        }
        let mut local = self.local.borrow_mut();
        let Local { ring, low, line, formatter } = &mut *local;
        line.clear();
        formatter.line(line, form, record);
        if ring.push_entire_slice(line).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if ring.cached_slots() < *low && ring.slots() < *low {
            self.writer.unpark();
        }
    }
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    rings: Vec<Consumer<u8>>,
    sink: Sink,
}

impl Writer {
    fn run(mut self) {
        loop {
            // Read first: whoever sets it has logged before.
            let last = self.shared.stop.load(Ordering::Acquire);
            let orders = std::mem::take(&mut *lock(&self.shared.orders));
            self.rings.extend(orders.rings);
            self.drain();
            if orders.reopen
                && let Err(error) = self.sink.reopen()
            {
                tracing::error!(%error, "the access log can't be reopened; the old file stays in use");
            }
            if let Some(sink) = orders.sink {
                self.sink = sink;
            }
            for flushed in orders.flushed {
                // Whoever gave up waiting is not there any more.
                let _ = flushed.send(());
            }
            if last {
                return;
            }
            // Without an access log nothing comes but orders, and those wake this thread.
            match self.shared.form() {
                Form::Off => std::thread::park(),
                Form::Text | Form::Json => std::thread::park_timeout(INTERVAL),
            }
        }
    }

    fn drain(&mut self) {
        let mut lost = 0;
        for ring in &mut self.rings {
            if let Ok(chunk) = ring.read_chunk(ring.slots()) {
                let (front, back) = chunk.as_slices();
                lost += self.sink.write(front) + self.sink.write(back);
                chunk.commit_all();
            }
        }
        self.rings.retain(|ring| !(ring.is_abandoned() && ring.is_empty()));
        if lost > 0 {
            self.shared.dropped.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

impl AccessSink {
    /// Opens what `[log]` says about the access log.
    ///
    /// # Errors
    /// A file that can't be opened; the error names it.
    pub fn open(log: &Log) -> io::Result<Self> {
        let stdout = io::stdout();
        let (sink, terminal) = match &log.access {
            LogSink::Off => return Ok(Self { sink: Sink::nowhere(), form: Form::Off }),
            LogSink::Stdout => (Sink::stream(&stdout)?, stdout.is_terminal()),
            LogSink::File(path) => (Sink::file(path)?, false),
        };
        let form = match log.format {
            LogFormat::Auto if terminal => Form::Text,
            LogFormat::Text => Form::Text,
            LogFormat::Auto | LogFormat::Json => Form::Json,
        };
        Ok(Self { sink, form })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::time::{Instant, SystemTime};

    use super::*;

    fn record(request_id: &str) -> AccessRecord<'_> {
        AccessRecord {
            time: SystemTime::UNIX_EPOCH,
            client: "192.0.2.7",
            listener: "public",
            tls_version: "",
            sni: "",
            method: b"GET",
            target: b"/",
            host: b"",
            route: "",
            status: 200,
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
            asset: "",
            region: "",
            backend: "",
            attempts: 0,
            duration: Duration::ZERO,
            upstream: None,
            connect: None,
            request_id: request_id.as_bytes(),
        }
    }

    fn request_id(line: &str) -> String {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["request_id"].as_str().unwrap().to_owned()
    }

    fn log(access: LogSink) -> Log {
        Log { access, format: LogFormat::Auto, ..Log::default() }
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn lines_of_all_workers_arrive_whole_and_in_each_workers_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let metrics = Metrics::new(1);
        let writer = AccessWriter::spawn(&log(LogSink::File(path.clone())), &metrics).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let access = writer.worker();
                scope.spawn(move || (0..500).for_each(|n| access.line(&record(&format!("{worker}-{n}")))));
            }
        });
        assert!(writer.flush(LONG));
        let text = std::fs::read_to_string(&path).unwrap();
        let ids: Vec<_> = text.lines().map(request_id).collect();
        for worker in 0..4 {
            let prefix = format!("{worker}-");
            let of_worker: Vec<_> = ids.iter().filter_map(|id| id.strip_prefix(&prefix)).collect();
            assert_eq!(of_worker, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_that_are_counted() {
        let (reader, pipe) = io::pipe().unwrap();
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = AccessWriter::start(Sink::stream(&pipe).unwrap(), Form::Json, dropped.clone()).unwrap();
        drop(pipe);
        let access = writer.with_ring(64 * 1024);
        // More than ring and pipe hold: nobody reads, and this ends all the same.
        let total = 4_000;
        (0..total).for_each(|n| access.line(&record(&n.to_string())));
        assert!(dropped.load(Ordering::Relaxed) > 0);
        assert!(!writer.flush(Duration::from_millis(1)));

        // The reader goes on: what was kept comes whole, and with what was counted that is all.
        drop(access);
        drop(writer);
        let mut last = None;
        let mut read = 0;
        for line in BufReader::new(reader).lines() {
            let id: u64 = request_id(&line.unwrap()).parse().unwrap();
            assert!(last < Some(id));
            last = Some(id);
            read += 1;
        }
        assert_eq!(read + dropped.load(Ordering::Relaxed), total);
    }

    #[test]
    fn a_line_is_written_without_being_asked_for() {
        let (reader, pipe) = io::pipe().unwrap();
        let writer = AccessWriter::start(Sink::stream(&pipe).unwrap(), Form::Json, Arc::default()).unwrap();
        let access = writer.worker();
        access.line(&record("one"));
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(request_id(&line), "one");
    }

    #[test]
    fn the_sink_changes_and_reopens() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second, moved] = ["first", "second", "moved"].map(|name| dir.path().join(name));
        let writer = AccessWriter::spawn(&log(LogSink::File(first.clone())), &Metrics::new(1)).unwrap();
        let access = writer.worker();
        access.line(&record("1"));
        let open = |sink| AccessSink::open(&log(sink));
        assert!(open(LogSink::File(dir.path().join("no/such/dir"))).unwrap_err().to_string().contains("no/such/dir"));
        writer.configure(open(LogSink::File(second.clone())).unwrap());
        assert!(writer.flush(LONG));
        access.line(&record("2"));
        assert!(writer.flush(LONG));
        std::fs::rename(&second, &moved).unwrap();
        writer.reopen();
        let deadline = Instant::now() + LONG;
        while !second.exists() {
            assert!(Instant::now() < deadline, "never reopened");
            std::thread::yield_now();
        }
        access.line(&record("3"));
        assert!(writer.flush(LONG));
        writer.configure(open(LogSink::Off).unwrap());
        assert!(!access.enabled());
        access.line(&record("4"));
        assert!(writer.flush(LONG));
        for (path, id) in [(first, "1"), (moved, "2"), (second, "3")] {
            let text = std::fs::read_to_string(path).unwrap();
            assert_eq!(text.lines().map(request_id).collect::<Vec<_>>(), [id]);
        }
    }
}
