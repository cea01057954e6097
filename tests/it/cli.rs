//! The command line: what each command prints, and the exit code that scripts go by.

use std::path::PathBuf;

use crate::support::proxy::run;
use crate::support::{Origin, Proxy, poll};

const GOOD: &str = "[[listeners]]\nbind = '127.0.0.1:0'\n[[routes]]\npath = '/v1/predict/{asset}'\n\
                    [regions.us-east]\n[pools.BTC.us-east]\nprimaries = ['127.0.0.1:9', '127.0.0.1:10']\n";

fn file(text: &str) -> (tempfile::TempDir, PathBuf, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shardgate.toml");
    std::fs::write(&path, text).unwrap();
    let name = path.to_str().unwrap().to_owned();
    (directory, path, name)
}

#[test]
fn usage_errors_are_2_and_help_and_version_are_0() {
    for arguments in [&["nonsense"][..], &[], &["check", "--no-such-flag"], &["completions", "tcsh-ish"]] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty());
    }
    assert_eq!(run(&["--help"]).0, 0);
    let (code, out, _) = run(&["--version"]);
    assert_eq!((code, out), (0, format!("shardgate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn check_says_all_that_is_wrong_or_what_it_found() {
    let (_directory, _, name) = file(GOOD);
    let (code, out, err) = run(&["check", "-c", &name]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("1 pool"), "{out}");

    let (_directory, _, name) = file("[[listeners]]\nbnd = '127.0.0.1:0'\n[regions.us-east]\nfallback = ['moon']\n");
    let (code, out, err) = run(&["check", "-c", &name]);
    assert_eq!((code, out.as_str()), (1, ""));
    for wanted in ["bnd", "bind", "moon", &format!("{name}:2:1"), &format!("{name}:4:")] {
        assert!(err.contains(wanted), "no {wanted} in:\n{err}");
    }

    let (code, _, err) = run(&["check", "-c", "/no/such/file.toml"]);
    assert_eq!(code, 1);
    assert!(err.contains("/no/such/file.toml"), "{err}");
}

#[test]
fn explain_says_who_would_get_a_request_and_why() {
    let (_directory, _, name) = file(GOOD);
    let (code, out, err) = run(&["explain", "-c", &name, "http://any.host/v1/predict/btc"]);
    assert_eq!(code, 0, "{err}");
    for wanted in ["/v1/predict/{asset}", "BTC", "us-east", "127.0.0.1:9"] {
        assert!(out.contains(wanted), "no {wanted} in:\n{out}");
    }
    let (code, out, err) = run(&["explain", "-c", &name, "POST", "http://any.host/v1/predict/NOPE"]);
    assert_eq!(code, 1, "{err}");
    assert!((out + &err).contains("unknown_asset"), "{err}");
    assert_eq!(run(&["explain", "-c", &name, "http://any.host/elsewhere"]).0, 1);
    for wrong in ["not a url", "any.host/v1/predict/BTC", "GET"] {
        let (code, _, err) = run(&["explain", "-c", &name, wrong]);
        assert!(code == 2 && err.contains("http://host/path"), "{wrong}: {err}");
    }
    assert_eq!(run(&["explain", "-c", &name, "-H", "no colon", "http://any.host/v1/predict/BTC"]).0, 2);
}

#[test]
fn schema_completions_and_man_are_what_their_readers_expect() {
    let (code, out, _) = run(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    for section in ["listeners", "routes", "pools", "regions", "defaults"] {
        assert!(schema["properties"][section].is_object(), "no {section} in the schema");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completions", shell]);
        assert!(code == 0 && out.contains("shardgate") && out.contains("explain"), "{shell}");
    }
    let (code, out, _) = run(&["man"]);
    assert!(code == 0 && out.contains(".TH shardgate 1"), "{out}");
    let plain = out.replace('\\', "");
    for wanted in [
        "--token-file",
        "default: 127.0.0.1:9600",
        "SIGHUP",
        "EXIT STATUS",
        "explain [OPTIONS] [METHOD] <URL>",
        "-c, --config <FILE>",
    ] {
        assert!(plain.contains(wanted), "no {wanted} in:\n{out}");
    }
    assert!(!plain.contains("shardgate-run"), "a page that is not there: {out}");
}

#[test]
fn a_port_that_is_taken_is_3_and_names_who_has_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let us = std::process::id().to_string();
    for text in [GOOD.replace("127.0.0.1:0", &address), format!("{GOOD}[admin]\nbind = \"{address}\"\n")] {
        let failed = Proxy::try_start(&text).err().expect("the port is taken");
        assert_eq!(failed.code, Some(3), "{}", failed.stderr);
        assert!(failed.stderr.contains(&address), "{}", failed.stderr);
        assert!(failed.stderr.contains(&us), "it does not say that process {us} has it: {}", failed.stderr);
    }
}

#[test]
fn a_daemon_with_a_wrong_file_is_1() {
    let failed = Proxy::try_start(&GOOD.replace("path", "paht")).err().expect("the file is wrong");
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("paht"), "{}", failed.stderr);
}

#[test]
fn an_admin_address_that_is_none_is_2_and_one_without_a_daemon_is_4() {
    let (code, _, err) = run(&["status", "--admin", "9600"]);
    assert!(code == 2 && err.contains("HOST:PORT"), "{err}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, _, err) = run(&["reload", "--admin", &nobody]);
    assert!(code == 4 && err.contains(&nobody), "{err}");
}

#[test]
fn an_access_log_that_cannot_be_opened_is_named() {
    let text = format!("{GOOD}[admin]\nbind = '127.0.0.1:0'\n[log]\naccess = 'no/such/dir/access.log'\n");
    let failed = Proxy::try_start(&text).err().expect("there is no such directory");
    assert_eq!(failed.code, Some(4), "{}", failed.stderr);
    assert!(failed.stderr.contains("no/such/dir/access.log"), "{}", failed.stderr);
    assert_eq!(failed.stderr.matches("os error 2").count(), 1, "said twice: {}", failed.stderr);

    let proxy = Proxy::start(&text.replace("no/such/dir/", ""));
    let before = proxy.config_hash();
    assert!(!proxy.reload(&text), "a reload that can't log is refused");
    assert_eq!(proxy.config_hash(), before);
}

#[test]
fn status_and_reload_speak_to_the_daemon() {
    let origin = Origin::start("a");
    let good = GOOD.replace("127.0.0.1:9'", &format!("{}'", origin.addr()));
    let proxy = Proxy::start(&good);
    let (admin, token) = (proxy.admin().to_string(), proxy.token_file());
    let (code, table, err) = run(&["status", "--admin", &admin]);
    assert_eq!(code, 0, "{err}");
    for wanted in ["BTC", "us-east", &origin.addr().to_string(), "primary"] {
        assert!(table.contains(wanted), "no {wanted} in:\n{table}");
    }
    let (code, json, _) = run(&["status", "--json", "--admin", &admin]);
    assert_eq!(code, 0);
    serde_json::from_str::<serde_json::Value>(&json).unwrap();

    let before = proxy.config_hash();
    let text = std::fs::read_to_string(proxy.config_file()).unwrap();
    std::fs::write(proxy.config_file(), text.replace("/v1/predict", "/v2/predict")).unwrap();
    let (code, out, err) = run(&["reload", "--admin", &admin, "--token-file", &token]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("reloaded"), "{out}");
    poll("the new hash", || (proxy.config_hash() != before).then_some(()));
    assert_eq!(proxy.get("/v2/predict/BTC").origin(), "a");

    std::fs::write(proxy.config_file(), text.replace("primaries", "primaires")).unwrap();
    let (code, _, err) = run(&["reload", "--admin", &admin, "--token-file", &token]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("primaires") && err.contains(":7:"), "{err}");
    assert_eq!(proxy.get("/v2/predict/BTC").origin(), "a");

    let (code, _, err) = run(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(code, 4);
    assert!(err.contains("127.0.0.1:1"), "{err}");
}
