//! The demo serves at once, and every line it prints works when it is typed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::proxy::run;
use crate::support::{Proxy, poll};

fn shell(line: &str) -> Value {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
}

#[test]
fn its_three_lines_work_and_a_killed_pool_is_served_by_another_region() {
    let proxy = Proxy::command(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let lines = poll("three lines to try", || {
        let lines: Vec<String> = proxy.output().iter().map(|l| l.trim().to_owned()).collect();
        let lines: Vec<String> = lines.into_iter().filter(|l| l.starts_with("curl ")).collect();
        (lines.len() == 3).then_some(lines)
    });
    let [first, second, kill] = lines.as_slice() else { unreachable!() };

    let answer = shell(first);
    let home = answer["served_by"]["region"].as_str().unwrap().to_owned();
    assert_eq!(answer["sample"], true, "it must say that its data is a sample: {answer}");
    assert!(answer["note"].as_str().unwrap().contains("made up"), "{answer}");
    assert!(answer["forecast"]["value"].as_f64().unwrap() > 0.0, "{answer}");
    let other = shell(second);
    assert_ne!(other["asset"], answer["asset"]);
    assert_ne!(other["served_by"]["region"], home.as_str());
    assert_eq!(other["forecast"]["steps_ahead"], 7);

    let killed = shell(kill);
    assert!(killed["backends"].as_array().unwrap().iter().all(|b| b["alive"] == false), "{killed}");
    // At once: a refused connection costs nothing and goes on to the next tier, until checks have seen it.
    let moved = shell(first);
    assert_ne!(moved["served_by"]["region"], home.as_str(), "{moved}");
    assert_eq!(moved["asset"], answer["asset"]);

    let revived = shell(&kill.replace("/die/", "/revive/"));
    assert!(revived["backends"].as_array().unwrap().iter().all(|b| b["alive"] == true), "{revived}");
    poll("the traffic to come home", || (shell(first)["served_by"]["region"] == home.as_str()).then_some(()));
}

#[test]
fn its_lines_work_over_unix_sockets_too() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("unix:{}/{name}", directory.path().display());
    let proxy = Proxy::command(["demo", "--listen", &at("proxy"), "--admin", &at("admin")]);
    let lines = poll("three lines to try", || {
        let lines: Vec<String> = proxy.output().iter().map(|l| l.trim().to_owned()).collect();
        let lines: Vec<String> = lines.into_iter().filter(|l| l.starts_with("curl ")).collect();
        (lines.len() == 3).then_some(lines)
    });
    assert_eq!(shell(&lines[0])["asset"], "BTC");
    assert_eq!(shell(&lines[1])["forecast"]["steps_ahead"], 7);
}

#[test]
fn a_region_is_taken_out_and_brought_back_by_the_line_it_prints() {
    let mut proxy = Proxy::command(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let drain = poll("the line to try", || {
        proxy.output().iter().map(|line| line.trim().to_owned()).find(|line| line.contains(" drain "))
    });
    let file = drain.rsplit(" --token-file ").next().expect("its last word").trim_matches('\'').to_owned();
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let region = || {
        let answer = serde_json::from_str::<Value>(&proxy.get("/v1/predict/BTC").text()).unwrap();
        answer["served_by"]["region"].as_str().unwrap().to_owned()
    };
    let home = region();
    assert!(Command::new("sh").args(["-c", &drain]).status().unwrap().success());
    poll("another region", || (region() != home).then_some(()));
    assert!(Command::new("sh").args(["-c", &drain.replace(" drain ", " ready ")]).status().unwrap().success());
    poll("the region at home", || (region() == home).then_some(()));
    proxy.signal(Signal::INT);
    proxy.wait_exit(Duration::from_secs(20));
    assert!(!Path::new(&file).exists(), "it is left behind");
}

#[test]
fn it_has_the_backends_that_it_says() {
    let proxy = Proxy::command(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    for (asset, backends) in [("BTC", 3), ("ETH", 4), ("DOGE", 3)] {
        for region in ["us-east", "eu-west"] {
            let labels = [("asset", asset), ("region", region)];
            let found = poll("every backend to be up", || {
                let found = proxy.series("shardgate_backend_up", &labels);
                found.iter().all(|s| s.1 == 1.0).then_some(found)
            });
            assert_eq!(found.len(), backends, "{asset} in {region}");
        }
    }
    assert_eq!(proxy.get("/v1/predict/NOPE").reason(), "unknown_asset");
}

#[test]
fn an_address_that_is_none_is_a_fault_of_the_command_line() {
    for arguments in [["--listen", "nonsense"], ["--listen", "127.0.0.1:99999"], ["--admin", "unix:"]] {
        let (code, _, said) = run(&[&["demo"][..], &arguments].concat());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(arguments[1]) && said.contains("neither IP:PORT nor unix:PATH"), "{said}");
    }
}
