//! A panic in the words of the log: one line, where it happened and what it said, wherever standard error leads.
//!
//! What a panic says may quote data that the code worked on, so it is cut, and nothing in it can begin a line of its own.
//! There is no backtrace, which would be a hundred lines of which the place is the first that anybody looks at.

use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::metrics::Metrics;

/// Characters of what a panic says.
const LONGEST: usize = 256;

/// From now on panics of this process are logged and counted. They end what they ended before: a connection, not the
/// daemon, if it is a connection's task that panics.
pub fn log_panics(metrics: &Metrics) {
    panic::set_hook(Box::new(hook(metrics.panics())));
}

fn hook(count: Arc<AtomicU64>) -> impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static {
    move |panic| {
        count.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let at = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::error!(at, thread, panic = words(panic.payload_as_str().unwrap_or("")), "a bug: something panicked");
    }
}

fn words(said: &str) -> String {
    said.chars().take(LONGEST).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_one_line_of_the_log_and_counted() {
        let (written, count) = (Written::default(), Arc::new(AtomicU64::new(0)));
        // The hook is the process's: other tests keep theirs.
        let (ours, others, here) = (hook(Arc::clone(&count)), panic::take_hook(), thread::current().id());
        panic::set_hook(Box::new(move |info| match thread::current().id() == here {
            true => ours(info),
            false => others(info),
        }));
        let writer = written.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let long = "x".repeat(1000);
            for said in ["two\nlines \u{1b}[31m", &long] {
                panic::catch_unwind(|| panic!("{said}")).unwrap_err();
            }
            panic::catch_unwind(|| panic::panic_any(7)).unwrap_err();
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, long, other] = &lines[..] else { panic!("{text}") };
        assert_eq!((&first["level"], &first["panic"]), (&"ERROR".into(), &"two lines  [31m".into()));
        assert!(first["at"].as_str().unwrap().starts_with("src/telemetry/panics.rs:"), "{first}");
        assert_eq!((long["panic"].as_str().unwrap().len(), &other["panic"]), (LONGEST, &"".into()));
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}
