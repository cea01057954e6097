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
        let (sink, form) = open(log)?;
        let shared = Arc::new(Shared {
            form: AtomicU8::new(form as u8),
            orders: Mutex::default(),
            stop: AtomicBool::new(false),
            dropped: metrics.dropped_access(),
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

    /// After a reload: goes over to what `[log]` says now. On an error nothing changes.
    pub fn configure(&self, log: &Log) -> io::Result<()> {
        let (sink, form) = open(log)?;
        lock(&self.shared.orders).sink = Some(sink);
        self.shared.form.store(form as u8, Ordering::Relaxed);
        self.thread.unpark();
        Ok(())
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
        self.form() != Form::Off
    }

    /// Writes a line. Never waits.
    pub fn line(&self, record: &AccessRecord<'_>) {
        let form = self.form();
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

    fn form(&self) -> Form {
        match self.shared.form.load(Ordering::Relaxed) {
            0 => Form::Off,
            1 => Form::Text,
            _ => Form::Json,
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
            std::thread::park_timeout(INTERVAL);
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

/// What `[log]` says about the access log.
fn open(log: &Log) -> io::Result<(Sink, Form)> {
    let stdout = io::stdout();
    let (sink, terminal) = match &log.access {
        LogSink::Off => return Ok((Sink::nowhere(), Form::Off)),
        LogSink::Stdout => (Sink::stream(&stdout)?, stdout.is_terminal()),
        LogSink::File(path) => (Sink::file(path)?, false),
    };
    let form = match log.format {
        LogFormat::Auto if terminal => Form::Text,
        LogFormat::Text => Form::Text,
        LogFormat::Auto | LogFormat::Json => Form::Json,
    };
    Ok((sink, form))
}
