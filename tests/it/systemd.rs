//! The service as systemd sees it: the unit file, and what the daemon says on the notify socket.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::support::certs::{Authority, place};
use crate::support::peer::find;
use crate::support::tls::TlsClient;
use crate::support::{Client, DEADLINE, Origin, Proxy};

const UNIT: &str = "packaging/shardgate.service";

fn unit() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(UNIT)
}

fn analyze(arguments: &[&str]) -> (bool, String) {
    let command = find("systemd-analyze", "/usr/bin/systemd-analyze");
    let output = Command::new(command).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_unit_is_well_formed() {
    // systemd-analyze looks for the binary and for the units that every service hangs on: they go into a root of their
    // own, so that nothing of this machine's /usr is touched.
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for directory in ["usr/bin", "etc/systemd/system", "usr/lib/systemd/system"] {
        std::fs::create_dir_all(at(directory)).unwrap();
    }
    std::fs::copy(crate::support::proxy::binary(), at("usr/bin/shardgate")).unwrap();
    for name in ["sysinit", "basic", "shutdown", "network-online", "multi-user"] {
        let text = format!("[Unit]\nDescription={name}\nDefaultDependencies=no\n");
        std::fs::write(at(&format!("usr/lib/systemd/system/{name}.target")), text).unwrap();
    }
    let (_, version) = analyze(&["--version"]);
    let version: u32 = version.split_whitespace().nth(1).and_then(|v| v.split('.').next()?.parse().ok()).unwrap();
    let mut text = std::fs::read_to_string(unit()).unwrap();
    if version < 253 {
        // The one word that it is too old to know. docs/operations.md says the same to users.
        text = text.replace("Type=notify-reload", "Type=notify");
    }
    std::fs::write(at("etc/systemd/system/shardgate.service"), text).unwrap();
    let root = format!("--root={}", root.path().display());
    let (good, said) = analyze(&["verify", "--man=no", "--recursive-errors=no", &root, "shardgate.service"]);
    assert!(good && said.trim().is_empty(), "{said}");
}

#[test]
fn the_unit_is_confined() {
    let unit = unit();
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=20", unit.to_str().unwrap()]);
    assert!(good, "exposed more than 2.0:\n{said}");
    assert!(std::fs::read_to_string(unit).unwrap().contains("\nType=notify-reload\n"));
}

/// One message, as lines.
fn message(socket: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 4096];
    let n = socket.recv(&mut bytes).expect("a message to the notify socket");
    String::from_utf8_lossy(&bytes[..n]).lines().map(str::to_owned).collect()
}

/// The next message that has this line; what comes before is skipped.
fn message_with(socket: &UnixDatagram, line: &str) -> Vec<String> {
    loop {
        let message = message(socket);
        if message.iter().any(|l| l == line) {
            return message;
        }
    }
}

fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

#[test]
fn it_tells_systemd_when_it_is_ready_reloads_lives_and_stops() {
    let origin = Origin::start("a");
    let config = |path: &str| {
        format!(
            "[[listeners]]\nbind = '127.0.0.1:0'\n[[routes]]\npath = '{path}/{{asset}}'\n[regions.us-east]\n\
             [pools.BTC.us-east]\nprimaries = ['{}']\n",
            origin.addr()
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut proxy = Proxy::start_with(&config("/a"), |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    });
    let ready = message_with(&socket, "READY=1");
    assert!(ready.iter().any(|l| l.starts_with("STATUS=")), "{ready:?}");
    message_with(&socket, "WATCHDOG=1");
    message_with(&socket, "WATCHDOG=1");

    let before = monotonic_usec();
    assert!(proxy.reload(&config("/b")));
    let reloading = message_with(&socket, "RELOADING=1");
    let stamp = reloading.iter().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).expect("in the same message");
    let stamp: u64 = stamp.parse().unwrap();
    assert!((before..=monotonic_usec()).contains(&stamp), "{stamp} is not between {before} and now");
    message_with(&socket, "READY=1");

    // A file that is refused ends the reload as well, or systemd would wait for ever.
    assert!(!proxy.reload("[[listeners]]\nbound = 1\n"));
    message_with(&socket, "RELOADING=1");
    message_with(&socket, "READY=1");

    proxy.signal(Signal::TERM);
    message_with(&socket, "STOPPING=1");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn secrets_are_taken_from_the_directory_of_credentials() {
    use std::os::unix::fs::PermissionsExt as _;
    let origin = Origin::start("a");
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    authority.sign(&["a.test"]).write(directory.path(), "site");
    place(&directory.path().join("admin.token"), "s3cret\n");
    // As systemd leaves them where it lets the service's user in by an access control list: the mask shows as the group's
    // rights.
    for name in ["site.pem", "site.key", "admin.token"] {
        std::fs::set_permissions(directory.path().join(name), std::fs::Permissions::from_mode(0o440)).unwrap();
    }
    let text = std::fs::read_to_string(unit()).unwrap();
    for name in ["admin.token", "site.pem", "site.key"] {
        assert!(text.contains(&format!("\n#LoadCredential={name}:/etc/shardgate/{name}\n")), "no {name} in the unit");
    }
    let config = format!(
        "[[listeners]]\nbind = '127.0.0.1:0'\n[listeners.tls]\n[[listeners.tls.certificates]]\n\
         cert = '${{CREDENTIALS_DIRECTORY}}/site.pem'\nkey = '${{CREDENTIALS_DIRECTORY}}/site.key'\n\
         [[routes]]\npath = '/{{asset}}'\n[regions.a]\n[pools.BTC.a]\nprimaries = ['{}']\nreplicas = ['127.0.0.1:1']\n\
         [admin]\nbind = '127.0.0.1:0'\ntoken_file = '${{CREDENTIALS_DIRECTORY}}/admin.token'\n",
        origin.addr()
    );
    let proxy = Proxy::start_with(&config, |command| {
        command.env("CREDENTIALS_DIRECTORY", directory.path());
    });
    assert_eq!(TlsClient::new(&authority).connect(proxy.address(), "a.test").get("/BTC").status, 200);
    for (token, status) in [("Bearer wrong", 401), ("Bearer s3cret", 200)] {
        let fields = [("Authorization", token)];
        assert_eq!(Client::connect(proxy.admin()).request("POST", "/api/v1/reload", &fields, b"").status, status);
    }
    assert!(!proxy.log().contains("can be read by others"), "{}", proxy.log());
    let failed = Proxy::try_start(&config).err().expect("there is no such variable");
    assert!(failed.stderr.contains("CREDENTIALS_DIRECTORY"), "{}", failed.stderr);
}
