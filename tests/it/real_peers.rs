//! Real servers behind it, real clients before it: nginx, uvicorn, curl, wrk. Nothing is lost when a backend is killed
//! under load or the configuration is changed twenty times; no POST reaches backends twice.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::peer::{Peer, find};
use crate::support::{Client, Proxy, poll};

/// Backends with their weights, one pool.
fn config(members: &[(&Peer, u16)]) -> String {
    let member = |(peer, weight): &(&Peer, u16)| format!("{{ address = \"{}\", weight = {weight} }}", peer.addr());
    let members = members.iter().map(member).collect::<Vec<_>>().join(", ");
    format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         [log]
         access = 'off'
         [[routes]]
         path = '/v1/predict/{{asset}}'
         [regions.us-east]
         [defaults]
         balance = 'round-robin'
         [defaults.health]
         path = '/healthz'
         interval = '500ms'
         fast_interval = '100ms'
         [pools.BTC.us-east]
         primaries = [{members}]
        "
    )
}

/// Requests that were answered well, by backend.
fn served(proxy: &Proxy) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for (labels, value) in proxy.series("shardgate_upstream_attempts_total", &[("outcome", "ok")]) {
        let backend = labels.into_iter().find(|(name, _)| name == "backend").expect("a backend label").1;
        *found.entry(backend).or_default() += value;
    }
    found
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new(find("curl", "/usr/bin/curl")).args(["-sS", "--max-time", "20"]).args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// wrk with GETs until it is told to stop.
struct Wrk(Option<Child>);

impl Wrk {
    fn start(target: &str, connections: usize) -> Self {
        let mut command = Command::new(find("wrk", "/usr/bin/wrk"));
        command.args(["-t1", "-d10m", "--timeout", "20s", &format!("-c{connections}"), target]);
        Self(Some(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// Ends it and gives the number of its requests; panics if any of them failed.
    fn finish(mut self) -> u64 {
        let child = self.0.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let report = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "wrk saw errors:\n{report}");
        let line = report.lines().find(|l| l.contains("requests in")).unwrap_or_else(|| panic!("{report}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Clients that send POSTs with ids on keep-alive connections until they are told to stop.
struct Posters {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<String>, String>>>,
    sent: Arc<AtomicUsize>,
}

impl Posters {
    fn start(proxy: SocketAddr, connections: usize) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..connections).map(|number| {
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                let mut answered = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("{number}-{}", answered.len());
                    let target = format!("/v1/predict/BTC?id={id}");
                    let request = client.format("POST", &target, &[], id.as_bytes());
                    client.try_send(&request).map_err(|e| format!("{id}: {e}"))?;
                    let answer = client.try_response_to("POST").map_err(|e| format!("{id}: {e}"))?;
                    if answer.status != 200 {
                        return Err(format!("{id}: {} {}", answer.status, answer.text()));
                    }
                    answered.push(id);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answered)
            })
        });
        let threads = threads.collect();
        Self { stop, threads, sent }
    }

    /// Ends them and gives the ids that were answered; panics if any failed.
    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.threads.into_iter().map(|t| t.join().unwrap());
        ends.collect::<Result<Vec<_>, _>>().unwrap_or_else(|e| panic!("a POST failed: {e}")).concat()
    }
}

#[test]
fn curl_gets_the_right_answers_from_nginx_and_uvicorn() {
    let peers = [Peer::nginx("nginx-1"), Peer::uvicorn("uvicorn-1")];
    let proxy = Proxy::start(&config(&[(&peers[0], 1), (&peers[1], 1)]));
    let url = |rest: &str| format!("http://{}/v1/predict/BTC{rest}", proxy.address());
    let mut seen: HashMap<String, usize> = HashMap::new();
    for number in 0..20 {
        let target = format!("?n={number}");
        let answer = curl(&["-D", "-", &url(&target)]);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let peer = body.split(' ').next().unwrap().to_owned();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(&format!("x-peer: {peer}")), "{head}");
        let wanted = match peer.starts_with("nginx") {
            true => format!("{peer} GET /v1/predict/BTC{target}"),
            false => format!("{peer} GET /v1/predict/BTC "),
        };
        assert_eq!(body, wanted);
        *seen.entry(peer).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");

    // A body of a megabyte, sized and chunked; uvicorn sends it back.
    let big: String = (0..1 << 20).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    let file = proxy.directory().join("big");
    std::fs::write(&file, &big).unwrap();
    let data = format!("@{}", file.display());
    let mut echoes = 0;
    for chunked in [false, true, false, true] {
        let coding = if chunked { "Transfer-Encoding: chunked" } else { "X-Sized: yes" };
        let answer = curl(&["-H", coding, "-H", "Expect:", "--data-binary", &data, &url("")]);
        if let Some(echo) = answer.strip_prefix("uvicorn-1 POST /v1/predict/BTC ") {
            assert!(echo == big, "a body of {} bytes came back as {}", big.len(), echo.len());
            echoes += 1;
        }
    }
    assert!(echoes > 0);
    let head = curl(&["-I", &url("")]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
}

#[test]
fn a_backend_killed_under_load_costs_no_get() {
    let mut peers =
        [Peer::nginx("nginx-1"), Peer::nginx("nginx-2"), Peer::uvicorn("uvicorn-1"), Peer::uvicorn("uvicorn-2")];
    let proxy = Proxy::start(&config(&peers.iter().map(|p| (p, 1)).collect::<Vec<_>>()));
    let wrk = Wrk::start(&format!("http://{}/v1/predict/BTC", proxy.address()), 64);

    let victim = peers[0].addr().to_string();
    let share = poll("the first thousand answers", || {
        let served = served(&proxy);
        let all: f64 = served.values().sum();
        (all > 1000.0).then(|| served.get(&victim).copied().unwrap_or_default() / all)
    });
    assert!(share > 0.2, "it had only {share:.2} of the traffic");
    peers[0].kill();
    proxy.metric_until("shardgate_backend_up", &[("backend", &victim)], |up| up == 0.0);
    let before: f64 = served(&proxy).values().sum();
    poll("a thousand answers of the others", || (served(&proxy).values().sum::<f64>() > before + 1000.0).then_some(()));
    let total = wrk.finish();
    assert!(total > 2000, "{total}");
}

#[test]
fn twenty_reloads_under_load_lose_nothing() {
    const CONNECTIONS: usize = 4;
    let peers =
        [Peer::nginx("nginx-1"), Peer::nginx("nginx-2"), Peer::uvicorn("uvicorn-1"), Peer::uvicorn("uvicorn-2")];
    let of = |weights: [u16; 4]| -> Vec<(&Peer, u16)> { peers.iter().zip(weights).filter(|m| m.1 > 0).collect() };
    let proxy = Proxy::start(&config(&of([1, 1, 1, 0])));
    let wrk = Wrk::start(&format!("http://{}/v1/predict/BTC", proxy.address()), CONNECTIONS);
    let posters = Posters::start(proxy.address(), CONNECTIONS);
    proxy.metric_until("shardgate_client_connections", &[], |open| open as usize == 2 * CONNECTIONS);
    // wrk opens one more before it begins, to see whether anybody is there.
    let opened = proxy.metric("shardgate_client_connections_total", &[]);

    // Added, removed, re-weighted, over and over.
    let steps = [[1, 1, 1, 1], [3, 1, 1, 1], [3, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]];
    let mut hash = proxy.config_hash();
    for step in 0..20 {
        let members = of(steps[step % steps.len()]);
        assert!(proxy.reload(&config(&members)), "reload {step} was refused:\n{}", proxy.log());
        let new = proxy.config_hash();
        assert_ne!(hash, new, "reload {step}");
        hash = new;
        follows(&proxy, &members, step);
    }
    assert_eq!(proxy.metric("shardgate_config_reloads_total", &[("result", "success")]), 20.0);
    assert_eq!(proxy.metric("shardgate_client_connections_total", &[]), opened, "a connection was closed");
    assert_eq!(proxy.metric("shardgate_client_connections", &[]) as usize, 2 * CONNECTIONS, "a connection was closed");

    assert!(posters.sent.load(Ordering::Relaxed) > 1000);
    let answered = posters.finish();
    assert!(wrk.finish() > 1000);
    let mut got: HashMap<String, usize> = HashMap::new();
    for id in peers.iter().flat_map(Peer::ids) {
        *got.entry(id).or_default() += 1;
    }
    let twice: Vec<_> = got.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "POSTs that backends got more than once: {twice:?}");
    let lost: Vec<_> = answered.iter().filter(|id| !got.contains_key(*id)).collect();
    assert!(lost.is_empty(), "POSTs that were answered and no backend got: {lost:?}");
    assert_eq!(got.len(), answered.len(), "POSTs that a backend got and that were not answered");
}

/// Waits until the traffic is shared as the weights say; what was removed has no series any more.
fn follows(proxy: &Proxy, members: &[(&Peer, u16)], step: usize) {
    let weights: f64 = members.iter().map(|m| f64::from(m.1)).sum();
    let mut before = served(proxy);
    poll(&format!("the traffic to follow reload {step}"), || {
        let now = served(proxy);
        let gained = |peer: &Peer| {
            let name = peer.addr().to_string();
            now.get(&name).copied().unwrap_or_default() - before.get(&name).copied().unwrap_or_default()
        };
        let all: f64 = members.iter().map(|m| gained(m.0)).sum();
        if all < 300.0 {
            return None;
        }
        let near = |m: &(&Peer, u16)| (gained(m.0) / all - f64::from(m.1) / weights).abs() < 0.1;
        let as_told = members.iter().all(near) && now.len() == members.len();
        before = now; // the next look is at what came after this one
        as_told.then_some(())
    });
}
