//! An agent beside a backend: whoever connects gets its line.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::poll;

/// It answers for as long as the process lives: an agent that is gone is one that says nothing.
pub struct Agent {
    address: SocketAddr,
    shared: Arc<(Mutex<Vec<u8>>, AtomicUsize)>,
}

impl Agent {
    /// Starts one at a port of this address.
    pub fn start(host: &str, line: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new((Mutex::new(line.as_bytes().to_vec()), AtomicUsize::new(0)));
        let agent = Self { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let line = shared.0.lock().unwrap().clone();
                let _ = stream.and_then(|mut stream| stream.write_all(&line));
                shared.1.fetch_add(1, Ordering::SeqCst);
            }
        });
        agent
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it says from now on, when somebody has heard it.
    pub fn say(&self, line: &str) {
        *self.shared.0.lock().unwrap() = line.as_bytes().to_vec();
        let before = self.shared.1.load(Ordering::SeqCst);
        // The first may have taken the line before.
        poll("the agent to be asked", || (self.shared.1.load(Ordering::SeqCst) >= before + 2).then_some(()));
    }
}
