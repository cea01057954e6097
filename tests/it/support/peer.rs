//! Web servers that we did not write, as backends: nginx and uvicorn, each a process of its own on a loopback port.
//!
//! `tests/run.sh` installs both. Each writes the ids of the POSTs it got into a file, so that a test can count them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use socket2::Socket;

use super::origin::bound;
use super::{Client, poll};

/// A running server; killed on drop.
pub struct Peer {
    name: String,
    address: SocketAddr,
    directory: tempfile::TempDir,
    child: Child,
    /// Bound, never listening: the port is ours before the server has it, and after it was killed.
    _reserved: Socket,
}

impl Peer {
    /// nginx in one process. It answers `NAME METHOD TARGET`; the id of a POST is its query parameter `id`.
    pub fn nginx(name: &str) -> Self {
        Self::nginx_with(name, "", &format!("'{name} $request_method $request_uri'"))
    }

    /// The same, which takes only connections that begin with a header of the PROXY protocol. It answers `NAME SOURCE
    /// DESTINATION`, as the header says.
    pub fn nginx_behind_proxies(name: &str) -> Self {
        let answer =
            "'$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port'";
        Self::nginx_with(name, "proxy_protocol", &answer.replacen('\'', &format!("'{name} "), 1))
    }

    fn nginx_with(name: &str, option: &str, answer: &str) -> Self {
        let prepared = prepare();
        let (at, address, log) = (prepared.0.path().display(), prepared.2, "ids.log");
        let http = format!(
            "log_format id '$arg_id';
             map $request_method $is_post {{ default 0; POST 1; }}
             server {{
               listen {address} {option};
               add_header x-peer {name};
               default_type text/plain;
               location = /healthz {{ return 200 'ok'; }}
               location / {{ access_log {at}/{log} id if=$is_post; return 200 {answer}; }}
             }}"
        );
        Self::nginx_of(name, prepared, &http, !option.is_empty())
    }

    /// The same, and at a second address over this version of TLS, with this certificate and key. There it answers with the protocol, whether
    /// the session was resumed, the name that was asked for and what it thinks of the client's certificate, by `client_ca`.
    pub fn nginx_tls(name: &str, protocol: &str, certificate: (&Path, &Path), client_ca: &Path) -> (Self, SocketAddr) {
        let prepared = prepare();
        let secure = bound("127.0.0.1:0".parse().unwrap());
        let secure_address = secure.local_addr().unwrap().as_socket().unwrap();
        drop(secure);
        let (address, (cert, key), ca) = (prepared.2, certificate, client_ca.display());
        let http = format!(
            "default_type text/plain;
             server {{ listen {address}; location / {{ return 200 'ok'; }} }}
             server {{
               listen {secure_address} ssl;
               ssl_certificate {cert}; ssl_certificate_key {key};
               ssl_client_certificate {ca}; ssl_verify_client optional;
               ssl_protocols {protocol}; ssl_session_cache shared:s:1m;
               location ~ /once {{ keepalive_timeout 0; return 200 '$ssl_protocol $ssl_session_reused $ssl_server_name $ssl_client_verify'; }}
               location / {{ return 200 '$ssl_protocol $ssl_session_reused $ssl_server_name $ssl_client_verify $connection_requests'; }}
             }}",
            cert = cert.display(),
            key = key.display(),
        );
        (Self::nginx_of(name, prepared, &http, false), secure_address)
    }

    /// One with this in its `http`, where it has been prepared.
    fn nginx_of(name: &str, prepared: Prepared, http: &str, behind_proxies: bool) -> Self {
        let at = prepared.0.path();
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;
             events {{ worker_connections 512; }}
             http {{
               access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
               fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
               {http}
             }}",
            at = at.display()
        );
        std::fs::write(at.join("nginx.conf"), config).unwrap();
        let mut command = Command::new(find("nginx", "/usr/sbin/nginx"));
        command.arg("-p").arg(at).arg("-c").arg(at.join("nginx.conf"));
        Self::start(name, prepared, command, behind_proxies)
    }

    /// uvicorn with the application of `tests/it/peers`. It answers `NAME METHOD PATH BODY`; the id of a POST is its
    /// body.
    pub fn uvicorn(name: &str) -> Self {
        let (directory, reserved, address) = prepare();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(find("uvicorn", root.join("target/peers/bin/uvicorn").to_str().unwrap()));
        command.args(["app:app", "--no-access-log", "--log-level", "warning", "--http", "h11", "--loop", "asyncio"]);
        command.arg("--app-dir").arg(root.join("tests/it/peers"));
        command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PEER_NAME", name).env("PEER_LOG", directory.path().join("ids.log"));
        Self::start(name, (directory, reserved, address), command, false)
    }

    fn start(name: &str, prepared: Prepared, mut command: Command, behind_proxies: bool) -> Self {
        let (directory, reserved, address) = prepared;
        let log = std::fs::File::create(directory.path().join("output.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut peer = Self { name: name.into(), address, directory, child, _reserved: reserved };
        poll(&format!("{name} to listen"), || {
            if let Some(status) = peer.child.try_wait().unwrap() {
                panic!("{name} ended: {status}\n{}", peer.read("output.log") + &peer.read("error.log"));
            }
            let mut client = Client::try_connect(address).ok()?;
            if behind_proxies {
                client.send("PROXY UNKNOWN\r\n");
            }
            Some(client.get("/healthz").status)
        });
        peer
    }

    /// Its name, as answers give it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The ids of the POSTs it got, in order.
    pub fn ids(&self) -> Vec<String> {
        self.read("ids.log").lines().map(str::to_owned).collect()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tool of this machine, or a panic that says how to get it.
pub fn find(tool: &str, usual: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = [PathBuf::from(usual)].into_iter().chain(std::env::split_paths(&path).map(|d| d.join(tool)));
    found.into_iter().find(|p| p.is_file()).unwrap_or_else(|| panic!("{tool} is missing; tests/run.sh installs it"))
}

/// A directory, an address, and the socket that keeps the address from others.
type Prepared = (tempfile::TempDir, Socket, SocketAddr);

fn prepare() -> Prepared {
    let reserved = bound("127.0.0.1:0".parse().unwrap());
    let address = reserved.local_addr().unwrap().as_socket().unwrap();
    (tempfile::tempdir().unwrap(), reserved, address)
}

#[test]
fn both_servers_answer_and_note_the_ids_of_posts() {
    for mut peer in [Peer::nginx("n"), Peer::uvicorn("u")] {
        let mut client = Client::connect(peer.addr());
        assert!(client.get("/x").text().starts_with(&format!("{} GET /x", peer.name())));
        assert_eq!(client.post("/x?id=7", "7").status, 200);
        poll("the id", || (peer.ids() == ["7"]).then_some(()));
        peer.kill();
        assert!(Client::try_connect(peer.addr()).is_err());
    }
}
