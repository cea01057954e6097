//! What the process has to say about itself: `tracing` events, to standard error.
//!
//! Standard output is left to the access log, so that one can be piped away from the other. Events are formatted where
//! they happen and put into a bounded queue; a thread writes them. A worker that has something to say does not wait for
//! whoever reads it: what does not fit is lost and counted.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt, reload};

use super::metrics::Metrics;
use super::sink::Sink;
use crate::model::{Log, LogFormat, LogLevel};

/// The target of what operators did.
const AUDIT: &str = "audit";

/// Lines, and bytes of lines, that may wait to be written.
const QUEUE_LINES: usize = 8192;
const QUEUE_BYTES: usize = 1 << 20;

/// The log of the process.
pub struct MainLog {
    queue: Queue,
    /// Sets the least severe level of the text form and of the JSON form; the one that is not used is off.
    levels: Levels,
}

type Levels = [Box<dyn Fn(LevelFilter) + Send + Sync>; 2];

/// Starts the log of the process. Fails if the process has one already, or has no standard error.
pub fn init_logging(log: &Log, metrics: &Metrics) -> io::Result<MainLog> {
    let stderr = io::stderr();
    let queue = Queue::spawn(Sink::stream(&stderr)?, metrics.dropped_main())?;
    let (subscriber, levels) = subscriber(log, stderr.is_terminal(), &queue);
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    Ok(MainLog { queue, levels })
}

/// Two layers, one of which is off.
fn subscriber(log: &Log, terminal: bool, queue: &Queue) -> (impl Subscriber + Send + Sync + 'static, Levels) {
    let [text_level, json_level] = levels(log, terminal);
    let (text_level, text_handle) = reload::Layer::new(filter(text_level));
    let (json_level, json_handle) = reload::Layer::new(filter(json_level));
    let text = fmt::layer().with_ansi(terminal).with_writer(queue.clone()).with_filter(text_level);
    let json = fmt::layer().json().flatten_event(true).with_writer(queue.clone()).with_filter(json_level);
    // A handle fails only when its subscriber is gone; the global one never goes.
    let levels: Levels = [
        Box::new(move |level| drop(text_handle.reload(filter(level)))),
        Box::new(move |level| drop(json_handle.reload(filter(level)))),
    ];
    (tracing_subscriber::registry().with(text).with(json), levels)
}

impl MainLog {
    /// After a reload: goes over to the level and format that `[log]` says now.
    pub fn configure(&self, log: &Log) {
        self.configure_for(log, io::stderr().is_terminal());
    }

    fn configure_for(&self, log: &Log, terminal: bool) {
        for (set, level) in self.levels.iter().zip(levels(log, terminal)) {
            set(level);
        }
    }

    /// Waits until everything said before this call is written, at most so long. Says whether it was.
    pub fn flush(&self, timeout: Duration) -> bool {
        let (done, flushed) = sync_channel(1);
        // Behind a full queue there is nothing to wait for: its reader stands still.
        self.queue.sender.try_send(Message::Flush(done)).is_ok() && flushed.recv_timeout(timeout).is_ok()
    }
}

impl std::fmt::Debug for MainLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MainLog").finish_non_exhaustive()
    }
}

impl Drop for MainLog {
    /// A panic that ends the process is said in a line that nobody else would wait for.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.flush(Duration::from_secs(1));
        }
    }
}

/// Who changed what is written whatever the level is.
fn filter(level: LevelFilter) -> Targets {
    let audit = if level == LevelFilter::OFF { level } else { level.max(LevelFilter::INFO) };
    // What it warns of is what clients do, so a client could fill the log; and it says much at each frame.
    let h2 = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::ERROR) };
    Targets::new().with_default(level).with_target(AUDIT, audit).with_target("h2", h2)
}

/// Of the text form and of the JSON form.
fn levels(log: &Log, terminal: bool) -> [LevelFilter; 2] {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text { [level, LevelFilter::OFF] } else { [LevelFilter::OFF, level] }
}

/// Lines on their way to the thread that writes them.
#[derive(Debug, Clone)]
struct Queue {
    sender: SyncSender<Message>,
    /// Bytes of the lines in the queue: added by whoever puts one in, taken away by the thread.
    bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    Flush(SyncSender<()>),
}

impl Queue {
    fn spawn(sink: Sink, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        let queue = Self { sender, bytes: Arc::default(), dropped };
        let (bytes, dropped) = (queue.bytes.clone(), queue.dropped.clone());
        std::thread::Builder::new().name("main-log".into()).spawn(move || write(receiver, sink, &bytes, &dropped))?;
        Ok(queue)
    }
}

/// The thread; it ends with the last sender.
fn write(receiver: Receiver<Message>, mut sink: Sink, bytes: &AtomicUsize, dropped: &AtomicU64) {
    for message in receiver {
        match message {
            Message::Line(line) => {
                dropped.fetch_add(sink.write(&line), Ordering::Relaxed);
                bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                // Whoever gave up waiting is not there any more.
                let _ = done.send(());
            }
        }
    }
}

/// `tracing-subscriber` writes each event in one call.
impl io::Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let waiting = self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        if waiting + line.len() > QUEUE_BYTES || self.sender.try_send(Message::Line(line.into())).is_err() {
            self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn log(level: LogLevel, format: LogFormat) -> Log {
        Log { level, format, ..Log::default() }
    }

    #[test]
    fn level_and_form_change_while_running() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let queue = Queue::spawn(Sink::stream(&pipe).unwrap(), Arc::default()).unwrap();
        drop(pipe);
        let (subscriber, levels) = subscriber(&log(LogLevel::Info, LogFormat::Auto), false, &queue);
        let main = MainLog { queue, levels };
        tracing::subscriber::with_default(subscriber, || {
            for round in 0..4 {
                match round {
                    1 => main.configure_for(&log(LogLevel::Debug, LogFormat::Json), false),
                    2 => main.configure_for(&log(LogLevel::Warn, LogFormat::Text), false),
                    3 => main.configure_for(&log(LogLevel::Info, LogFormat::Auto), true),
                    _ => {}
                }
                tracing::debug!(round, "fine");
                tracing::info!(round, name = "a\"b", "usual");
                tracing::warn!(round, "odd");
                if round == 2 {
                    tracing::info!(target: AUDIT, round, "who did what");
                }
            }
        });
        assert!(main.flush(Duration::from_secs(30)));
        drop(main);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let [usual, odd, fine, usual_1, odd_1, odd_2, audit_2, usual_3, odd_3] = &lines[..] else { panic!("{text}") };
        let parsed: serde_json::Value = serde_json::from_str(usual).unwrap();
        assert_eq!((&parsed["level"], &parsed["message"]), (&"INFO".into(), &"usual".into()));
        assert_eq!((&parsed["name"], &parsed["round"]), (&"a\"b".into(), &0.into()));
        for line in [odd, fine, usual_1, odd_1] {
            assert!(line.starts_with('{'), "{line}");
        }
        for line in [odd_2, audit_2, usual_3, odd_3] {
            assert!(!line.starts_with('{'), "{line}");
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_that_are_counted() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue::spawn(Sink::stream(&pipe).unwrap(), dropped.clone()).unwrap();
        drop(pipe);
        let total = 5_000;
        for _ in 0..total {
            let line = [&[b'x'; 999][..], b"\n"].concat();
            assert_eq!(io::Write::write(&mut queue.clone(), &line).unwrap(), line.len());
        }
        let lost = dropped.load(Ordering::Relaxed);
        assert!(lost > 0);
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count() as u64, total - lost);
    }
}
