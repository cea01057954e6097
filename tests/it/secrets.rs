//! Secrets: the admin token, private keys, what comes from the environment. They go where they are needed and are in
//! nothing that is shown: logs at their most talkative, answers, what commands print, what is said of bad files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};

use crate::support::certs::{self, place};
use crate::support::proxy::run;
use crate::support::tls::TlsClient;
use crate::support::tls_origin::{Authority, Front};
use crate::support::{Client, Origin, Proxy};

const TOKEN: &str = "t0ken-of-the-marker";
const WRONG: &str = "t0ken-that-is-wrong";
const SET: &str = "value-of-the-marker";
const SAID: &str = "value-in-the-file";

/// What a private key would look like in a text: part of the number that it is, in the ways in which bytes are printed.
fn traces(pem: &str) -> Vec<String> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64.decode(body.as_bytes()).unwrap();
    // PKCS #8 around SEC 1 (RFC 5958, RFC 5915) on P-256: the number is 32 bytes from here.
    assert_eq!(der[31..36], [2, 1, 1, 4, 32]);
    let part = &der[36..48];
    assert!(pem.contains(&BASE64.encode(part)));
    let bare = format!("{part:?}").trim_matches(['[', ']']).to_owned();
    vec![BASE64.encode(part), HEXLOWER.encode(part), HEXUPPER.encode(part), bare, part.escape_ascii().to_string()]
}

#[track_caller]
fn hides(secrets: &[String], text: &str, what: &str) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{what} tells {secret}:\n{text}");
    }
}

/// `check` on this file.
fn check(directory: &Path, toml: &str) -> (i32, String) {
    let file = directory.join("checked.toml");
    fs::write(&file, toml).unwrap();
    let (code, out, err) = run(&["check", "-c", file.to_str().unwrap()]);
    (code, out + &err)
}

#[test]
fn nothing_that_is_shown_has_a_secret_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (ours, theirs) = (certs::Authority::new("ours"), Authority::new());
    let site = ours.sign(&["a.test"]);
    site.write(path, "site");
    let ca = theirs.write(path, "ca.pem");
    let shown = theirs.certify_client("shardgate");
    let (cert, key) = shown.write(path, "client");
    place(&path.join("token"), TOKEN);
    place(&path.join("wrong"), WRONG);
    let origin = Origin::start("one");
    let server = theirs.certify(&["127.0.0.1"]).server_with(rustls::ALL_VERSIONS, Some(&theirs));
    let front = Front::start(origin.addr(), server);
    let config = format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[listeners.tls]\n[[listeners.tls.certificates]]\n\
         cert = \"{dir}/site.pem\"\nkey = \"{dir}/site.key\"\n\
         [admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"{dir}/token\"\n[log]\nlevel = \"trace\"\n\
         [[routes]]\npath = \"/v1/{{asset}}\"\nheaders = {{ request = {{ set = {{ x-key = \"${{MARKER}}\", x-more = \"${{MARKER}}\", \
         authorization = \"{SAID}\", x-tier = \"gold\" }} }}, response = {{ set = {{ set-cookie = \"{SAID}\" }} }} }}\n[[routes]]\n\
         path = \"/elsewhere\"\nredirect = \"https://me:{SAID}@example.com/\"\n[regions.a]\n\
         [defaults]\nhealth = {{ path = \"/healthz?key={SAID}\", interval = \"100ms\" }}\n\
         tls = {{ ca = \"{ca}\", cert = \"{cert}\", key = \"{key}\" }}\n\
         [pools.BTC.a]\nprimaries = [\"{backend}\"]\n",
        dir = path.display(),
        ca = ca.display(),
        cert = cert.display(),
        key = key.display(),
        backend = front.addr(),
    );
    let mut secrets = vec![TOKEN.to_owned(), WRONG.to_owned(), SET.to_owned(), SAID.to_owned()];
    secrets.extend(traces(&site.key));
    secrets.extend(traces(&shown.key));

    let proxy = Proxy::start_with(&config, |command| {
        command.env("MARKER", SET);
    });
    assert_eq!(TlsClient::new(&ours).connect(proxy.address(), "a.test").get("/v1/BTC").status, 200);
    // All of them are in use.
    assert_eq!(origin.requests()[0].header("x-key"), Some(SET));
    assert!(front.handshakes().iter().any(|handshake| handshake.has_certificate), "the client's certificate");
    for (token, status) in [(TOKEN, 200), (WRONG, 401)] {
        let token = format!("Bearer {token}");
        for (method, target) in [
            ("GET", "/api/v1/status"),
            ("GET", "/api/v1/config"),
            ("GET", "/api/v1/explain?url=/v1/BTC"),
            ("GET", "/api/v1/states"),
            ("GET", "/metrics"),
            ("POST", "/api/v1/reload"),
        ] {
            let answer = Client::connect(proxy.admin()).request(method, target, &[("Authorization", &token)], b"");
            assert!(method == "GET" || answer.status == status, "{target}: {}", answer.status);
            hides(&secrets, &answer.text(), target);
        }
    }
    let told = proxy.admin_request("GET", "/api/v1/config").json();
    let set = &told["config"]["routes"][0]["headers"]["request"]["set"];
    assert_eq!((&set["x-more"], &set["authorization"]), (&"[hidden]".into(), &"[hidden]".into()));
    assert_eq!(set["x-tier"], "gold", "what is none is told");
    assert_eq!(told["config"]["routes"][1]["redirect"], "https://[hidden]@example.com/");
    assert_eq!(told["config"]["pools"]["BTC"]["a"]["health"]["path"], "/healthz?[hidden]");
    let admin = proxy.admin().to_string();
    for file in ["token", "wrong"] {
        let file = path.join(file);
        for command in [&["status", "--json"][..], &["reload"], &["drain", "a"], &["ready", "a"]] {
            let rest = ["--admin", &admin, "--token-file", file.to_str().unwrap()];
            let (_, out, err) = run(&[command, &rest].concat());
            hides(&secrets, &(out + &err), command[0]);
        }
    }
    // Files that turn bad under a running daemon: seen by itself, and refused by a reload.
    place(&path.join("site.key"), &site.key.replace("-----END", "-----HALF"));
    proxy.log_line("a certificate that changed can't be used, the old one goes on");
    place(&path.join("token"), &format!("{TOKEN} {TOKEN}"));
    assert!(!proxy.reload(&config));
    proxy.access_where(|line| line["target"] == "/v1/BTC");
    hides(&secrets, &proxy.log(), "the log");
    hides(&secrets, &proxy.output().join("\n"), "the access log");
}

#[test]
fn a_plan_can_be_printed() {
    let directory = tempfile::tempdir().unwrap();
    let authority = certs::Authority::new("ours");
    let (site, shown) = (authority.sign(&["a.test"]), authority.sign(&["shardgate"]));
    site.write(directory.path(), "site");
    shown.write(directory.path(), "client");
    place(&directory.path().join("token"), TOKEN);
    place(&directory.path().join("ca.pem"), &authority.pem());
    let file = directory.path().join("shardgate.toml");
    let toml = "[[listeners]]\nbind = '127.0.0.1:0'\n[listeners.tls]\n[[listeners.tls.certificates]]\ncert = 'site.pem'\n\
                key = 'site.key'\n[admin]\ntoken_file = 'token'\n[[routes]]\npath = '/{asset}'\n[regions.a]\n[defaults]\n\
                tls = { ca = 'ca.pem', cert = 'client.pem', key = 'client.key' }\n\
                [pools.BTC.a]\nprimaries = ['127.0.0.1:1']\n";
    fs::write(&file, toml).unwrap();
    let loaded = shardgate::config::load(&file).unwrap();
    let mut secrets = vec![TOKEN.to_owned()];
    secrets.extend(traces(&site.key));
    secrets.extend(traces(&shown.key));
    hides(&secrets, &format!("{loaded:?}"), "Debug");
    let bad = fs::write(&file, toml.replace("path =", "paht =")).map(|()| shardgate::config::load(&file).unwrap_err());
    hides(&secrets, &format!("{:?}", bad.unwrap()), "Debug");
}

#[test]
fn what_is_said_of_a_bad_file_quotes_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let authority = certs::Authority::new("ours");
    let (site, other) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    site.write(path, "site");
    let mut secrets = vec!["marker".to_owned()];
    secrets.extend(traces(&site.key));
    secrets.extend(traces(&other.key));
    let broken = [
        ("half.key", other.key.replace("-----END", "-----HALF")),
        ("begin.key", other.key.replace("-----BEGIN", "marker\n-----BEGIN marker")),
        ("base64.key", other.key.replacen('\n', "\n%marker%", 1)),
        ("cut.key", other.key.lines().filter(|line| line.len() != 64).collect::<Vec<_>>().join("\n")),
        ("encrypted.key", other.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
        ("other.key", other.key.clone()),
        ("both.key", other.key.clone() + &site.key),
        ("text.key", "a marker, and nothing else\n".to_owned()),
    ];
    for (name, text) in &broken {
        place(&path.join(name), text);
    }
    let rest = "[[routes]]\npath = '/{asset}'\n[regions.a]\n[pools.BTC.a]\nprimaries = ['127.0.0.1:1']\n";
    let listener = "[[listeners]]\nbind = '127.0.0.1:0'\n";
    let tls = |keys: &str| format!("{listener}[listeners.tls]\n{keys}\n");
    let pair = |cert: &str, key: &str| format!("[[listeners.tls.certificates]]\ncert = '{cert}'\nkey = '{key}'\n");
    for (name, _) in &broken {
        for (what, toml) in [
            ("key", tls(&pair("site.pem", name)) + rest),
            ("cert", tls(&pair(name, "site.key")) + rest),
            ("ocsp", tls(&(pair("site.pem", "site.key") + &format!("ocsp = '{name}'"))) + rest),
            ("client_ca", tls(&(format!("client_ca = '{name}'\n") + &pair("site.pem", "site.key"))) + rest),
            ("a pool's ca", format!("{listener}{rest}tls = {{ ca = '{name}' }}\n")),
            ("a pool's key", format!("{listener}{rest}tls = {{ cert = 'site.pem', key = '{name}' }}\n")),
            ("a pool's cert", format!("{listener}{rest}tls = {{ cert = '{name}', key = 'site.key' }}\n")),
        ] {
            let (code, said) = check(path, &toml);
            assert_eq!(code, 1, "{name} as {what}: {said}");
            hides(&secrets, &said, &format!("{name} as {what}"));
        }
    }
    for token in ["", "two markers", "marker\nmarker\n", "m\u{e4}rker-marker", "marker\u{7f}"] {
        place(&path.join("token"), token);
        let (code, said) = check(path, &format!("[admin]\ntoken_file = 'token'\n{listener}{rest}"));
        assert_eq!(code, 1, "{token:?}: {said}");
        assert!(said.contains("token holds no token"), "{said}");
        hides(&secrets, &said, token);
    }
    place(&path.join("token"), "marker\nmarker");
    let file = path.join("token");
    let (code, out, err) = run(&["status", "--admin", "127.0.0.1:1", "--token-file", file.to_str().unwrap()]);
    assert_eq!(code, 4);
    hides(&secrets, &(out + &err), "--token-file");
    // A directory, and what never ends.
    for not_a_file in [".", "/dev/zero"] {
        let (code, said) = check(path, &format!("[admin]\ntoken_file = '{not_a_file}'\n{listener}{rest}"));
        assert!(code == 1 && said.contains("not a file"), "{said}");
    }
}

#[test]
fn a_token_that_others_can_read_is_warned_of() {
    let origin = Origin::start("one");
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, TOKEN).unwrap();
    let config = format!(
        "[[listeners]]\nbind = '127.0.0.1:0'\n[[routes]]\npath = '/{{asset}}'\n[regions.a]\n\
         [pools.BTC.a]\nprimaries = ['{}']\nreplicas = ['127.0.0.1:1']\n\
         [admin]\nbind = '127.0.0.1:0'\ntoken_file = '{}'\n",
        origin.addr(),
        token.display()
    );
    for (mode, warns) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let (code, said) = check(directory.path(), &config);
        assert_eq!(code, 0, "{said}");
        let words = format!("token can be read by others than its owner (mode {mode:03o})");
        assert_eq!(said.contains(&words), warns, "{mode:o}: {said}");
    }
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let proxy = Proxy::start(&config);
    proxy.log_says("token can be read by others");
}
