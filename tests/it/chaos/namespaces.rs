//! Network namespaces on virtual cables: a machine for the balancer, one for each region.
//!
//! A namespace has no name: it is held by a process that does nothing and ends with the test, whatever end that has.
//! Its cables and its firewall go with it, so nothing is ever left behind, nothing of the host is touched, and any
//! number of runs can have the same addresses.
//!
//! Every backend is at the end of a cable of its own, so that one can be cut, filtered or narrowed without the others:
//! backend B of region R has 10.R.B.2 on the device `bB`, and the balancer sees it from 10.R.B.1.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::peer::find;

/// A network namespace with nothing in it but loopback, until cables are laid.
pub struct Namespace {
    file: File,
    holder: Child,
}

/// Whether the tests that need namespaces are to be left out. Where they are not permitted, tests fail unless this says
/// so: a test that leaves itself out is soon one that never runs.
pub fn left_out() -> bool {
    let asked = std::env::var("SHARDGATE_TEST_NETNS").is_ok_and(|value| value == "skip");
    if asked {
        let _ = writeln!(std::io::stderr(), "left out, as SHARDGATE_TEST_NETNS=skip asks");
    }
    asked
}

impl Namespace {
    pub fn new() -> Self {
        let mut command = Command::new(find("unshare", "/usr/bin/unshare"));
        command.args(["-n", "sh", "-c", "ip link set lo up && echo up && exec cat > /dev/null"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
        assert_eq!(
            line, "up\n",
            "no network namespace: that needs root, and iproute2; SHARDGATE_TEST_NETNS=skip leaves these tests out"
        );
        let file = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        Self { file, holder }
    }

    /// Does something on a thread that is in this namespace. Threads and processes that it starts are, too.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves this thread into the namespace, for good.
    pub fn enter(&self) {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// A cable to each backend of this region. It gives the addresses of the backends.
    pub fn region(&self, balancer: &Self, region: u8, backends: u8) -> Vec<SocketAddr> {
        let (mut here, mut there) = (String::new(), String::new());
        for b in 1..=backends {
            let (near, far, pid) = (format!("r{region}b{b}"), format!("b{b}"), self.holder.id());
            here += &format!("link add {near} type veth peer name {far} netns {pid}\n");
            here += &format!("addr add 10.{region}.{b}.1/30 dev {near}\nlink set {near} up\n");
            there += &format!("addr add 10.{region}.{b}.2/30 dev {far}\nlink set {far} up\n");
        }
        balancer.ip(&here);
        self.ip(&there);
        (1..=backends).map(|b| SocketAddr::from(([10, region, b, 2], 8000))).collect()
    }

    /// Runs a command line in this namespace; words are split at blanks.
    pub fn run(&self, line: &str) {
        let mut words = line.split_whitespace();
        let tool = words.next().unwrap();
        let mut command = Command::new(find(tool, &format!("/usr/sbin/{tool}")));
        command.args(words).stdin(Stdio::null());
        let output = self.within(|| command.output().unwrap());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn ip(&self, lines: &str) {
        let mut command = Command::new(find("ip", "/usr/sbin/ip"));
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = self.within(|| command.spawn().unwrap());
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "ip: {lines}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
