//! Explanations, read by a person and by a program.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request};

use super::super::testing::{lenient, plan, pool, route, servers, strict};
use super::super::{Index, Snapshot, build};
use super::*;
use crate::backend::{Cause, Status};
use crate::model::{PoolSettings, RegionId};

/// A in near (half up) and far; B only down, in far.
fn snapshot() -> Snapshot {
    let mut plan = plan(&["near", "far"], &["A", "B"]);
    let settings = Arc::default();
    plan.pools = [(Some(0), 0), (Some(0), 1), (Some(1), 1)].map(|(a, r)| pool(a, r, &settings)).to_vec();
    plan.regions[1].fallback = Vec::<RegionId>::new();
    let mut forward = route("predict", &["*.example.com"], &[Method::GET], Some("/p/{asset}"));
    forward.region =
        vec![lenient(SourceKind::Header(http::HeaderName::from_static("x-region"))), strict(SourceKind::ClientAddress)];
    let home = Route { action: Action::Redirect("/p/A".into()), ..route("home", &[], &[], Some("/")) };
    plan.routes = vec![forward, home];
    let (up, down) = (Some(Status::Up), Some(Status::Down(Cause::Status(500))));
    build(Arc::new(Index::new(Arc::new(plan))), 1, std::time::Instant::now(), |id| match id.0 {
        0 => [servers("near", 1, &[up, down]), vec![]],
        1 => [servers("far", 3, &[up]), servers("far", 4, &[Some(Status::Unchecked)])],
        _ => [vec![], servers("far", 5, &[Some(Status::Down(Cause::Refused))])],
    })
}

fn ask(method: &str, url: &str, region: &str) -> Explanation {
    let request = Request::builder().method(method).uri(url).header("x-region", region).body(()).unwrap();
    explain(&snapshot(), &request.into_parts().0, None, Instant::now(), &mut fastrand::Rng::with_seed(1))
}

#[test]
fn told_to_a_person() {
    let told = ask("GET", "http://api.example.com/p/a", "mars");
    assert!(told.is_served());
    assert_eq!(
        told.to_string(),
        "\
request  GET api.example.com/p/a
route    predict (host *.example.com, path /p/{asset}, method GET)
asset    path:asset says a
region   header?:x-region says mars, which is not configured: the next one
region   client-address says nothing
region   default_region says near
key      A in near
pools    A/near, then A/far
tier      70 % to A/near primary: health 70 %
               + 10.0.0.1:1  weight 1, 0 in flight, up
               - 10.0.0.1:2  weight 1, 0 in flight, down: status 500
tier      30 % to A/far primary: health 100 %
               + 10.0.0.1:3  weight 1, 0 in flight, up
tier       0 % to A/far replica: health 0 %
               - 10.0.0.1:4  weight 1, 0 in flight, unchecked
backend  10.0.0.1:1 in near (primary): its tier takes 70 % of the load; least-request among 1 of 2
"
    );
}

#[test]
fn policies_that_know_more_say_more() {
    let told = |balance, hash_on: &[HashSource]| {
        let mut plan = plan(&["near"], &["A"]);
        let settings = Arc::new(PoolSettings { balance, hash_on: hash_on.to_vec(), ..PoolSettings::default() });
        plan.pools = vec![pool(Some(0), 0, &settings)];
        plan.routes = vec![route("all", &[], &[], Some("/{asset}"))];
        let (servers, now) = (servers("near", 1, &[None, None]), Instant::now());
        servers[1].backend.latency().asked(now);
        servers[1].backend.latency().took(std::time::Duration::from_millis(12), now);
        let snapshot =
            build(Arc::new(Index::new(Arc::new(plan))), 1, std::time::Instant::now(), |_| [servers.clone(), vec![]]);
        let request = Request::get("/A").body(()).unwrap().into_parts().0;
        explain(&snapshot, &request, None, now, &mut fastrand::Rng::with_seed(1)).to_string()
    };
    let ewma = told(Policy::PeakEwma, &[]);
    assert!(ewma.contains("10.0.0.1:1  weight 1, 0 in flight, not-checked\n"), "{ewma}");
    assert!(ewma.contains("10.0.0.1:2  weight 1, 0 in flight, not-checked, answers in 12.0 ms\n"), "{ewma}");
    assert!(ewma.contains("backend  10.0.0.1:1 in near (primary): its tier takes all load; peak-ewma among 2 of 2"));
    let maglev = told(Policy::Maglev, &[HashSource::Part(SourceKind::ClientAddress), HashSource::Uri]);
    assert!(maglev.contains("maglev by uri among 2 of 2") && !maglev.contains("12.0 ms"), "{maglev}");
    let nothing = told(Policy::Maglev, &[HashSource::Part(SourceKind::ClientAddress)]);
    assert!(nothing.contains("maglev, but no source yields: random among 2 of 2"), "{nothing}");
}

#[test]
fn told_to_a_program() {
    let told = serde_json::to_value(ask("GET", "http://api.example.com/p/A", "far")).unwrap();
    assert_eq!(told["route"]["name"], "predict");
    assert_eq!(told["sources"][1]["result"], "decides");
    assert_eq!(told["region"], "far");
    assert_eq!(told["tiers"][0]["servers"][0]["state"], "up");
    assert_eq!(told["pick"]["backend"], "10.0.0.1:3");
    assert!(told["refusal"].is_null());
}

#[test]
fn refusals_say_why() {
    for (method, url, region, reason, text) in [
        ("GET", "http://other.example.org/p/A", "", "no_route", "no route has this host and path"),
        ("PUT", "http://api.example.com/p/A", "", "method_not_allowed", "does not take PUT; it takes GET, HEAD"),
        ("GET", "http://api.example.com/p/XRP", "", "unknown_asset", "path:asset says XRP, which is not configured\n"),
        (
            "GET",
            "http://api.example.com/p/B",
            "",
            "no_healthy_backend",
            "10.0.0.1:5  weight 1, 0 in flight, down: refused",
        ),
    ] {
        let told = ask(method, url, region);
        assert_eq!(told.refusal.as_ref().map(|refused| refused.reason), Some(reason), "{told}");
        assert!(!told.is_served() && told.pick.is_none());
        assert!(told.to_string().contains(text), "{told}");
    }
}

#[test]
fn an_answer_of_its_own_is_served() {
    let told = ask("GET", "http://other/", "");
    assert!(told.is_served() && told.pick.is_none() && told.tiers.is_empty());
    assert!(told.to_string().contains("action   redirect: 301 to /p/A"), "{told}");
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let told = ask("GET", "http://api.example.com/p/%1b%5b2J", "");
    assert!(told.to_string().contains("\\u{1b}[2J"), "{told}");
}
