//! The backends of a region, and what can be wrong with one: a thread in the region's namespace that answers for all of
//! them, and notes every request that it has read whole. Such a request counts as run, whatever answer it gets or does
//! not get, since nobody outside could know that it was not.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::namespaces::Namespace;
use super::wire::{Wire, body_of, framing};

/// What is wrong with a backend's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has died: its connections have ended, new ones are refused.
    Refused,
    /// Connections are accepted and closed.
    AcceptClose,
    /// Connections are accepted and reset.
    AcceptReset,
    /// Connections are not accepted: a few wait in the kernel, then it answers no more of them.
    AcceptHang,
    /// The request is read, the connection closed.
    Close,
    /// The request is read, the connection reset.
    Reset,
    /// Half of a head, and a reset.
    ResetInHeaders,
    /// What is no HTTP.
    Garbage,
    /// A head that is too long.
    HugeHeaders,
    /// 503.
    Unavailable,
    /// A head and half of the body, and a reset.
    ResetInBody,
    /// A head and half of the body, and the end of the connection.
    ShortBody,
    /// A head byte by byte, so slowly that nobody waits for its end.
    SlowHeaders,
    /// A body that takes two seconds.
    SlowBody,
    /// The request is read, and nothing more happens.
    Hang,
}

/// Connections that the kernel holds for a program that does not accept them, less one.
const HANGING: u32 = 4;

impl Fault {
    /// Whether the program has been started anew with this fault, so that what was connected to it is not any more.
    fn ends_connections(self) -> bool {
        matches!(self, Self::Refused | Self::AcceptClose | Self::AcceptReset | Self::AcceptHang)
    }
}

/// A request that a backend has read whole.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub id: u32,
    pub is_post: bool,
    /// Whether its body was the one that was sent.
    pub is_right: bool,
}

/// The backends of a region. They end on drop.
pub struct Backends {
    all: Vec<Arc<Backend>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

struct Backend {
    number: usize,
    address: SocketAddr,
    fault: watch::Sender<Option<Fault>>,
    runs: Mutex<Vec<Run>>,
}

impl Backends {
    /// Starts a backend at each of these addresses, which the namespace has; they are numbered from `first`.
    pub fn start(region: &Namespace, addresses: &[SocketAddr], first: usize) -> Self {
        let backend = |(number, &address)| {
            let (fault, runs) = (watch::channel(None).0, Mutex::default());
            Arc::new(Backend { number, address, fault, runs })
        };
        let all: Vec<_> = (first..).zip(addresses).map(backend).collect();
        let (stop, mut stopped) = watch::channel(false);
        let of_thread = all.clone();
        let thread = region.within(|| {
            let (ready, wait) = std::sync::mpsc::sync_channel(1);
            // A thread starts in the namespace of the one that starts it.
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for backend in of_thread {
                        let listener = listen(backend.address).unwrap();
                        tasks.spawn(backend.accept_all(listener));
                    }
                    ready.send(()).unwrap();
                    let _ = stopped.wait_for(|stop| *stop).await;
                });
            });
            wait.recv().expect("the backends listen");
            thread
        });
        Self { all, stop, thread: Some(thread) }
    }

    /// What is wrong with the first backend from now on.
    pub fn set(&self, fault: Option<Fault>) {
        self.all[0].fault.send_replace(fault);
    }

    /// The same, with all of them.
    pub fn set_all(&self, fault: Option<Fault>) {
        for backend in &self.all {
            backend.fault.send_replace(fault);
        }
    }

    /// What they have run, each in its order.
    pub fn runs(&self) -> Vec<Run> {
        self.all.iter().flat_map(|backend| backend.runs.lock().unwrap().clone()).collect()
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

impl Backend {
    async fn accept_all(self: Arc<Self>, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut fault = self.fault.subscribe();
        let mut now = None;
        let mut connections = JoinSet::new();
        loop {
            let accepting = listener.as_ref().filter(|_| now != Some(Fault::AcceptHang));
            tokio::select! {
                biased;
                changed = fault.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    now = *fault.borrow_and_update();
                    if now.is_some_and(Fault::ends_connections) {
                        connections.shutdown().await;
                    }
                    if now == Some(Fault::Refused) {
                        listener = None;
                        continue;
                    }
                    let listening = listener.take().or_else(|| listen(self.address).ok()).expect("its address is free");
                    let backlog = if now == Some(Fault::AcceptHang) { HANGING } else { 1024 };
                    SockRef::from(&listening).listen(backlog as i32).unwrap();
                    listener = Some(listening);
                }
                Some(accepted) = async { Some(accepting?.accept().await) } => {
                    let Ok((stream, _)) = accepted else { continue };
                    match now {
                        Some(Fault::AcceptClose) => {}
                        Some(Fault::AcceptReset) => { let _ = stream.set_zero_linger(); }
                        _ => { connections.spawn(self.clone().serve(stream)); }
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Answers on one connection until it ends.
    async fn serve(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut wire = Wire::new(stream)?;
        while let Some(head) = wire.head().await? {
            let mut body = Vec::new();
            wire.body(framing(&head), &mut body).await?;
            let id = id_in(&head);
            let is_post = head.starts_with("POST ");
            let is_right = if is_post { body == upload_of(id) } else { body.is_empty() };
            self.runs.lock().unwrap().push(Run { id, is_post, is_right });
            let fault = *self.fault.borrow();
            if !self.answer(&mut wire, id, fault).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Answers one request; `false`: that was the end of the connection.
    async fn answer(&self, wire: &mut Wire, id: u32, fault: Option<Fault>) -> io::Result<bool> {
        let (head, body) = self.message(id);
        let half = body.len() / 2;
        match fault {
            None | Some(Fault::Refused | Fault::AcceptClose | Fault::AcceptReset | Fault::AcceptHang) => {
                wire.send(&[head, body].concat()).await?;
                return Ok(true);
            }
            Some(Fault::Unavailable) => {
                wire.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nbusy\n").await?;
                return Ok(true);
            }
            Some(Fault::SlowBody) => {
                wire.send(&head).await?;
                for part in body.chunks(body.len().div_ceil(20)) {
                    wire.send(part).await?;
                    sleep(Duration::from_millis(100)).await;
                }
                return Ok(true);
            }
            Some(Fault::Close) => {}
            Some(Fault::Reset) => wire.reset_at_end(),
            Some(Fault::ResetInHeaders) => {
                wire.send(&head[..head.len() / 2]).await?;
                sleep(Duration::from_millis(20)).await; // or the reset overtakes what was sent
                wire.reset_at_end();
            }
            Some(Fault::Garbage) => wire.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n").await?,
            Some(Fault::HugeHeaders) => {
                let field = format!("x-filler: {}\r\n", "x".repeat(1000));
                wire.send(format!("HTTP/1.1 200 OK\r\n{}\r\n", field.repeat(120)).as_bytes()).await?;
            }
            Some(Fault::ResetInBody) => {
                wire.send(&[&head, &body[..half]].concat()).await?;
                sleep(Duration::from_millis(20)).await;
                wire.reset_at_end();
            }
            Some(Fault::ShortBody) => wire.send(&[&head, &body[..half]].concat()).await?,
            Some(Fault::SlowHeaders) => {
                for byte in head {
                    wire.send(&[byte]).await?;
                    sleep(Duration::from_millis(150)).await;
                }
            }
            Some(Fault::Hang) => wire.ended().await,
        }
        Ok(false)
    }

    /// Head and body of a good answer; every fifth in chunks.
    fn message(&self, id: u32) -> (Vec<u8>, Vec<u8>) {
        let body = body_of(id);
        let mut head = format!("HTTP/1.1 200 OK\r\nx-backend: {}\r\n", self.number);
        if !id.is_multiple_of(5) {
            head += &format!("content-length: {}\r\n\r\n", body.len());
            return (head.into_bytes(), body);
        }
        head += "transfer-encoding: chunked\r\n\r\n";
        let mut chunks = Vec::new();
        for part in body.chunks(1000) {
            chunks.extend_from_slice(&[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        (head.into_bytes(), chunks)
    }
}

/// The body of a POST.
pub fn upload_of(id: u32) -> Vec<u8> {
    let mut body = body_of(id);
    body.truncate(1024);
    body
}

/// The id that a request's target names.
fn id_in(head: &str) -> u32 {
    let target = head.split(' ').nth(1).unwrap_or_default();
    target.rsplit_once("?id=").and_then(|(_, id)| id.parse().ok()).unwrap_or(u32::MAX)
}
