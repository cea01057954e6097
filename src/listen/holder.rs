//! Who holds a port: what `ss -ltnp` would say, from /proc/net/tcp and /proc/PID/fd (proc(5)). Best effort: other
//! users' processes can be seen by root only.

use std::{fs, io};

use crate::model::Bind;

/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// The end of a message about a bind that failed: ` (held by NAME, process 7)` if another process is in the way and that can be
/// known, else nothing.
pub fn held_by(bind: &Bind, error: &io::Error) -> String {
    let holder = match bind {
        Bind::Tcp(address) if error.kind() == io::ErrorKind::AddrInUse => of_port(address.port()),
        _ => None,
    };
    holder.map_or_else(String::new, |holder| format!(" (held by {holder})"))
}

/// The process that listens on this port, as a text: its name and id.
fn of_port(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(|line| listener(line, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()));
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        holds.then(|| format!("{}, process {pid}", name.trim_end()))
    })
}

/// The inode, if this line is a listener on the port. Fields: number, local address, remote address, state, queues,
/// timer, retransmits, user, time-out, inode.
fn listener(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, local) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    (state == LISTEN && u16::from_str_radix(local, 16) == Ok(port)).then(|| inode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_net_tcp_is_read() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0";
        assert_eq!(listener(line, 8080).as_deref(), Some("31337"));
        assert_eq!(listener(line, 8081), None);
        assert_eq!(listener(&line.replace(" 0A ", " 01 "), 8080), None);
        assert_eq!(listener("sl local_address rem_address st", 8080), None);
    }

    #[test]
    fn our_own_port_is_ours() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = of_port(socket.local_addr().unwrap().port()).unwrap();
        assert!(holder.ends_with(&format!("process {}", std::process::id())), "{holder}");
    }
}
