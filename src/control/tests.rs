//! The way of a Plan into force, step by step: what is shared with the one before, what comes in meanwhile, who frees.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use tokio::sync::mpsc;

use super::passive::Ejections;
use super::*;
use crate::backend::{Cause, Check, Status};
use crate::balance::slow_start::WHOLE;
use crate::config;
use crate::health::{Prober, Transition};
use crate::model::{Announcement, Detector, Outlier, Plan, PoolId};
use crate::routing::{Index, Server, build};

mod operator;

const BASE: &str = r#"
[server]
default_region = "r"
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
path = "/{asset}"
[regions.r]
[regions.s]
"#;

fn plan(pools: &str) -> Arc<Plan> {
    let loaded = config::load_str(&format!("{BASE}{pools}"));
    Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).plan)
}

fn pool(name: &str, members: &str) -> String {
    format!("[pools.{name}]\nprimaries = [{members}]\n")
}

/// A controller with this Plan in force. Nothing is really checked: the prober gets no time.
fn controller(first: &Arc<Plan>) -> (Controller, Arc<Table>) {
    controller_of(first, Board::new(States::default()))
}

fn controller_of(first: &Arc<Plan>, board: Arc<Board>) -> (Controller, Arc<Table>) {
    let metrics = Metrics::new(100);
    let (facts, _) = mpsc::channel(1);
    let prober = Prober::spawn(facts, Arc::clone(&metrics));
    let index = Arc::new(Index::new(Arc::new(first.of_nothing())));
    let table = Arc::new(Table::new(build(index, 0, Instant::now(), |_| Default::default())));
    let mut controller = Controller::new(Arc::clone(&table), metrics, prober, board);
    put_in_force(&mut controller, first);
    (controller, table)
}

fn stage(controller: &mut Controller, plan: &Arc<Plan>) -> Staged {
    controller.stage(Arc::clone(plan), Vec::new()).expect("no other is on its way").run()
}

fn put_in_force(controller: &mut Controller, plan: &Arc<Plan>) -> Summary {
    let staged = stage(controller, plan);
    drop(controller.check(staged));
    let settled = controller.settle().expect("it is on its way").run();
    controller.publish(settled)
}

fn servers(table: &Table, pool: u32) -> Arc<[Server]> {
    Arc::clone(&table.load().pool(PoolId(pool)).tiers[0].servers)
}

fn check(table: &Table, pool: u32) -> Arc<Check> {
    Arc::clone(servers(table, pool)[0].check.as_ref().expect("it is checked"))
}

fn set(controller: &mut Controller, check: &Arc<Check>, to: Status) {
    let from = check.status();
    check.set(to, Instant::now());
    controller.transition(&Transition { check: Arc::clone(check), from, to, clears: false, is_back: false });
}

fn healths(table: &Table) -> Vec<u8> {
    table.load().pools().map(|pool| pool.tiers[0].health).collect()
}

#[tokio::test]
async fn pools_that_are_as_they_were_are_shared_wherever_they_stand() {
    let (a, b, c) = (pool("A.r", "\"10.0.0.1:1\""), pool("B.r", "\"10.0.0.2:1\""), pool("C.s", "\"10.0.0.1:1\""));
    let (mut controller, table) = controller(&plan(&[&*a, &b, &c].concat()));
    let before: Vec<_> = (0..3).map(|pool| servers(&table, pool)).collect();
    let generation = table.load().generation;

    let changed = b.replace("10.0.0.2", "10.0.0.3");
    let summary = put_in_force(&mut controller, &plan(&[&*pool("0.r", "\"10.0.0.9:1\""), &a, &changed, &c].concat()));
    assert_eq!(summary, Summary { pools: 4, added: 1, changed: 1, removed: 0 });
    let same: Vec<_> = (0..3).map(|i| Arc::ptr_eq(&before[i], &servers(&table, i as u32 + 1))).collect();
    assert_eq!(same, [true, false, true]);
    assert!(table.load().pools().enumerate().all(|(i, pool)| pool.id.index() == i));
    assert_eq!(table.load().generation, generation + 1);

    // A region that is spelled differently is another one in labels, and so are its backends.
    let shouted = plan(&[&*a, &c].concat());
    let shouted =
        Plan { regions: vec![shouted.regions[0].clone(), rename(&shouted.regions[1], "S")], ..(*shouted).clone() };
    let summary = put_in_force(&mut controller, &Arc::new(shouted));
    assert_eq!(summary, Summary { pools: 2, added: 1, changed: 0, removed: 3 });
    assert!(Arc::ptr_eq(&before[0], &servers(&table, 0)));
    assert_eq!(&*servers(&table, 1)[0].backend.identity.region, "S");
}

fn rename(region: &crate::model::Region, name: &str) -> crate::model::Region {
    crate::model::Region { name: name.into(), ..region.clone() }
}

#[tokio::test]
async fn other_settings_are_a_change() {
    let a = pool("A.r", "\"10.0.0.1:1\"");
    let (mut controller, table) = controller(&plan(&a));
    let summary = put_in_force(&mut controller, &plan(&format!("{a}[defaults]\nbalance = \"random\"\n")));
    assert_eq!((summary.changed, table.load().pool(PoolId(0)).settings.balance.as_str()), (1, "random"));
    let summary = put_in_force(&mut controller, &plan(&format!("{a}[defaults]\nbalance = \"random\"\n")));
    assert_eq!(summary.changed, 0);
}

#[tokio::test]
async fn facts_that_come_in_at_any_step_are_in_force_afterwards() {
    let text = pool("A.r", "\"10.0.0.1:1\"") + &pool("B.r", "\"10.0.0.2:1\"");
    let (mut controller, table) = controller(&plan(&text));
    let next = plan(&(text + &pool("C.r", "\"10.0.0.3:1\"")));
    assert_eq!(healths(&table), [0, 0], "no check has ended yet");

    let staging = controller.stage(Arc::clone(&next), Vec::new()).expect("no other is on its way");
    assert!(controller.stage(Arc::clone(&next), Vec::new()).is_none(), "one at a time");
    set(&mut controller, &check(&table, 0), Status::Up);
    controller.flush();
    assert_eq!(healths(&table), [100, 0], "the Plan in force follows meanwhile");
    let staged = staging.run();
    drop(controller.check(staged));
    set(&mut controller, &check(&table, 1), Status::Up);
    let settled = controller.settle().expect("it is on its way").run();
    set(&mut controller, &check(&table, 0), Status::Down(Cause::Timeout));
    controller.publish(settled);
    assert_eq!(healths(&table), [0, 100, 0]);
    set(&mut controller, &check(&table, 2), Status::Up);
    controller.flush();
    assert_eq!(healths(&table), [0, 100, 100]);
}

#[tokio::test]
async fn addresses_that_come_in_while_a_step_is_taken_are_taken_up_after_it() {
    let text = pool("A.r", "\"one.test:1\"");
    let (mut controller, table) = controller(&plan(&text));
    let next = plan(&(text + &pool("B.r", "\"one.test:2\", \"two.test:2\"")));
    let address = |last| IpAddr::from([10, 0, 0, last]);
    let labels = |pool| servers(&table, pool).iter().map(|server| server.backend.label.to_string()).collect::<Vec<_>>();

    let staging = controller.stage(Arc::clone(&next), Vec::new()).expect("no other is on its way");
    controller.resolved("one.test".into(), vec![address(1)]);
    assert!(labels(0).is_empty(), "what it leads to can't be said yet");
    let staged = staging.run();
    drop(controller.check(staged));
    assert_eq!(labels(0), ["10.0.0.1:1"]);
    let settling = controller.settle().expect("it is on its way");
    controller.resolved("two.test".into(), vec![address(2)]);
    controller.publish(settling.run());
    assert_eq!((labels(0), labels(1)), (vec!["10.0.0.1:1".into()], vec!["10.0.0.1:2".into(), "10.0.0.2:2".into()]));
}

/// Where it is checked, what a name leads to now is not known to work.
#[tokio::test]
async fn what_a_name_led_to_stays_until_what_it_leads_to_is_checked() {
    let (mut controller, table) = controller(&plan(&pool("A.r", "\"one.test:1\"")));
    let resolve = |controller: &mut Controller, last: &[u8]| {
        controller.resolved("one.test".into(), last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect());
        controller.flush();
    };
    let ends = |table: &Table| servers(table, 0).iter().map(|s| s.backend.label.to_string()).collect::<Vec<_>>();
    let check = |at: usize| Arc::clone(servers(&table, 0)[at].check.as_ref().expect("it is checked"));
    resolve(&mut controller, &[1]);
    set(&mut controller, &check(0), Status::Up);
    resolve(&mut controller, &[2, 3]);
    assert_eq!(ends(&table), ["10.0.0.2:1", "10.0.0.3:1", "10.0.0.1:1"]);
    assert_eq!(names(&table), ["unchecked", "unchecked", "up"]);
    set(&mut controller, &check(0), Status::Up);
    controller.flush();
    assert_eq!(names(&table), ["up", "unchecked", "up"], "one is still to be checked");
    set(&mut controller, &check(1), Status::Down(Cause::Refused));
    controller.flush();
    assert_eq!(ends(&table), ["10.0.0.2:1", "10.0.0.3:1"]);
    // What does not work is not kept, nor what comes and goes before it was checked.
    resolve(&mut controller, &[4]);
    resolve(&mut controller, &[5]);
    assert_eq!(ends(&table), ["10.0.0.5:1", "10.0.0.2:1"]);
    // Back before that: nothing has changed.
    resolve(&mut controller, &[2]);
    assert_eq!((ends(&table), names(&table)), (vec!["10.0.0.2:1".into()], vec!["up".into()]));
    // A reload judges by a first round; what changes after that is as ever.
    let next = plan(&(pool("A.r", "\"one.test:1\"") + &pool("B.r", "\"10.0.0.9:1\"")));
    let staged = stage(&mut controller, &next);
    drop(controller.check(staged));
    resolve(&mut controller, &[6]);
    let settled = controller.settle().expect("it is on its way").run();
    controller.publish(settled);
    assert_eq!(ends(&table), ["10.0.0.6:1", "10.0.0.2:1"]);
    set(&mut controller, &check(0), Status::Up);
    controller.flush();
    assert_eq!(ends(&table), ["10.0.0.6:1"]);
}

#[tokio::test]
async fn a_plan_that_is_given_up_leaves_no_trace() {
    let (mut controller, table) = controller(&plan(&pool("A.r", "\"one.test:1\"")));
    let next = plan(&pool("B.r", "\"10.0.0.2:1\""));
    let generation = table.load().generation;
    let staged = stage(&mut controller, &next);
    controller.abandon();
    controller.abandon_staged(staged);
    let staged = stage(&mut controller, &next);
    drop(controller.check(staged));
    let settling = controller.settle().expect("it is on its way");
    controller.abandon();
    controller.abandon_settled(settling.run());
    assert!(controller.settle().is_none());
    assert_eq!((table.load().generation, controller.plan().pools.len()), (generation, 1));
    controller.resolved("one.test".into(), vec![IpAddr::from([10, 0, 0, 1])]);
    controller.flush();
    assert_eq!(servers(&table, 0).len(), 1);
    drop(controller.tick());
    assert_eq!(controller.backends(), 1);
}

/// However the worker lets go of an old Snapshot, it is not the last to do so.
#[tokio::test]
async fn an_old_snapshot_is_freed_by_whoever_ticks() {
    let (mut controller, table) = controller(&plan(&pool("A.r", "\"10.0.0.1:1\"")));
    drop(controller.tick());
    let old = Arc::downgrade(&table.load());
    let (told, worker_did) = sync_channel(2);
    let (go_on, orders) = sync_channel(2);
    let worker = std::thread::spawn({
        let table = Arc::clone(&table);
        move || {
            let mut reader = table.reader();
            let kept_by_a_request = reader.current();
            let _ = (told.send(()), orders.recv());
            drop(kept_by_a_request);
            reader.refresh();
            let _ = told.send(());
        }
    });
    worker_did.recv().expect("it has begun");
    put_in_force(&mut controller, &plan(&pool("B.r", "\"10.0.0.2:1\"")));
    assert!(controller.tick().is_empty(), "a request needs it");
    go_on.send(()).expect("it waits");
    worker_did.recv().expect("it has let go");
    worker.join().expect("it ends");
    assert_eq!(old.strong_count(), 1);
    let retired = controller.tick();
    assert_eq!((retired.len(), old.strong_count()), (1, 1));
    drop(retired);
    assert_eq!(old.strong_count(), 0);
}

/// Requests of which so many end in an error.
fn requests(server: &Server, n: usize, errors: usize) {
    let terms = Outlier { consecutive_errors: u32::MAX, ..Outlier::default() };
    for i in 0..n {
        let request = server.backend.try_request(u32::MAX).expect("room");
        if i < errors { drop(request.failed(false, &terms)) } else { drop(request.succeeded(None)) }
    }
}

fn names(table: &Table) -> Vec<String> {
    table.load().pool(PoolId(0)).verdicts().iter().map(|verdict| verdict.why.to_string()).collect()
}

#[tokio::test]
async fn who_fails_more_than_its_neighbours_is_ejected() {
    let members: Vec<_> = (1..=6).map(|i| format!("\"10.0.0.{i}:1\"")).collect();
    let text =
        pool("A.r", &members.join(", ")) + "[defaults]\nhealth = false\noutlier = { consecutive_errors = 1000000 }\n";
    let (_, table) = controller(&plan(&text));
    let snapshot = table.load();
    let servers = servers(&table, 0);
    let start = Instant::now();
    let mut ejections = Ejections::new(start);
    let mut tick = |seconds: u64| {
        let now = start + std::time::Duration::from_secs(seconds);
        ejections.tick(&snapshot, [PoolId(0)].into_iter(), |_| true, now).len()
    };
    servers.iter().for_each(|server| requests(server, 200, 2));
    assert_eq!(tick(10), 0, "they are all alike");
    servers.iter().take(5).for_each(|server| requests(server, 200, 0));
    requests(&servers[5], 200, 60);
    assert_eq!(tick(19), 0, "not yet");
    assert_eq!(tick(20), 1);
    assert_eq!(names(&table).iter().filter(|why| *why == "ejected").count(), 1);
    assert_eq!(names(&table)[5], "ejected");
    // What was gathered counts once, and one that is out is not counted again.
    assert_eq!(tick(30), 0);
    assert_eq!(tick(50), 1, "half-open");
    assert_eq!(names(&table)[5], "half-open");
    let probe = servers[5].backend.try_request(9).expect("one");
    let told = probe.succeeded(Some(&Outlier::default())).expect("it was half-open");
    assert!(ejections.observe(told, start + std::time::Duration::from_secs(51)).is_some());
    assert_eq!(names(&table)[5], "not-checked");
}

#[tokio::test]
async fn a_lost_word_is_said_again_and_an_old_one_does_no_harm() {
    let (mut controller, table) = controller(&plan(&(pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\"") + NO_CHECKS)));
    let terms = Outlier { consecutive_errors: 3, ..Outlier::default() };
    let backend = Arc::clone(&servers(&table, 0)[0].backend);
    let fail = || backend.try_request(9).expect("room").failed(false, &terms);
    assert!(fail().is_none() && fail().is_none());
    drop(fail().expect("three in a row"));
    let (again, and_again) = (fail().expect("said again"), fail().expect("said again"));
    controller.observe(again);
    controller.flush();
    assert_eq!((names(&table)[0].as_str(), healths(&table)[0]), ("ejected", 70));
    controller.observe(and_again);
    assert_eq!(backend.standing().ejection.map(|ejection| ejection.detector), Some(Detector::ConsecutiveErrors));
    // The one that is left fails as well: it is spared, and goes on with as many requests as before, half-open, too.
    let other = Arc::clone(&servers(&table, 0)[1].backend);
    (0..3).for_each(|_| {
        if let Some(told) = other.try_request(9).expect("room").failed(false, &terms) {
            controller.observe(told);
        }
    });
    controller.flush();
    assert_eq!(names(&table), ["ejected", "spared"]);
    // What it answers well shows nothing before its time has come, and then only where it can be ejected.
    let good = other.try_request(9).expect("room");
    assert!(good.succeeded(Some(&terms)).is_none());
    other.half_open();
    assert!(good.succeeded(None).is_none() && good.succeeded(Some(&Outlier { enforce: false, ..terms })).is_none());
    controller.observe(good.succeeded(Some(&terms)).expect("it was half-open"));
    controller.flush();
    assert_eq!(names(&table), ["ejected", "not-checked"]);
    // A reload leaves it out.
    put_in_force(&mut controller, &plan(&(pool("A.r", "\"10.0.0.1:1\", \"10.0.0.3:1\"") + NO_CHECKS)));
    assert_eq!((names(&table)[0].as_str(), healths(&table)[0]), ("ejected", 70));
}

const NO_CHECKS: &str = "[defaults]\nhealth = false\n";

#[tokio::test]
async fn who_leaves_while_out_is_let_go_of_and_comes_back_without_a_past() {
    let two = pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\"") + NO_CHECKS;
    let (mut controller, table) = controller(&plan(&two));
    let terms = Outlier { consecutive_errors: 1, ..Outlier::default() };
    let told =
        servers(&table, 0)[0].backend.try_request(9).expect("room").failed(false, &terms).expect("one is too many");
    controller.observe(told);
    controller.flush();
    assert_eq!(names(&table), ["ejected", "not-checked"]);
    put_in_force(&mut controller, &plan(&(pool("A.r", "\"10.0.0.2:1\"") + NO_CHECKS)));
    drop(controller.tick());
    drop(controller.tick());
    assert_eq!(controller.backends(), 1);
    put_in_force(&mut controller, &plan(&two));
    assert_eq!(names(&table), ["not-checked", "not-checked"]);
}

#[tokio::test]
async fn who_was_out_begins_slowly_however_that_ends() {
    let text = pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\"")
        + "[defaults]\nhealth = false\nslow_start = { window = \"1h\" }\n";
    let (mut controller, table) = controller(&plan(&text));
    let base_ejection = std::time::Duration::from_millis(1);
    let terms = Outlier { consecutive_errors: 1, base_ejection, ..Outlier::default() };
    let failed = servers(&table, 0)[0].backend.try_request(9).expect("room").failed(false, &terms);
    controller.observe(failed.expect("one is too many"));
    controller.flush();
    let mut seen = vec![(names(&table)[0].clone(), false)];
    while seen.len() < 3 {
        drop(controller.tick());
        let now = (names(&table)[0].clone(), table.load().pool(PoolId(0)).is_warming_up());
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    let seen: Vec<_> = seen.iter().map(|(why, warms_up)| (&**why, *warms_up)).collect();
    assert_eq!(seen, [("ejected", false), ("half-open", false), ("not-checked", true)]);
}

#[tokio::test]
async fn what_a_server_announced_goes_with_it() {
    let (one, two) = (pool("A.r", "\"10.0.0.1:1\""), pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\""));
    let (mut controller, table) = controller(&plan(&(two.clone() + NO_CHECKS)));
    let backend = Arc::clone(&servers(&table, 0)[1].backend);
    controller.observe(Observation::Announced(backend, Announcement::Drain));
    controller.flush();
    assert_eq!(names(&table), ["not-checked", "announced-drain: response"]);
    put_in_force(&mut controller, &plan(&(one + NO_CHECKS)));
    drop(controller.tick());
    put_in_force(&mut controller, &plan(&(two + NO_CHECKS)));
    assert_eq!(names(&table), ["not-checked", "not-checked"]);
}

#[tokio::test]
async fn who_is_spoken_to_in_another_way_is_not_cold() {
    let text = |address: &str, more: &str| {
        pool("A.r", &format!("\"10.0.0.1:1\", \"{address}\""))
            + &format!("[defaults]\nhealth = false\nslow_start = {{ window = \"1h\" }}\n{more}")
    };
    let (mut controller, table) = controller(&plan(&text("10.0.0.2:1", "")));
    put_in_force(&mut controller, &plan(&text("10.0.0.2:1", "protocol = \"h2\"\n")));
    let whole = || servers(&table, 0).iter().map(|server| server.share == WHOLE).collect::<Vec<_>>();
    assert_eq!(whole(), [true, true]);
    put_in_force(&mut controller, &plan(&text("10.0.0.3:1", "protocol = \"h2\"\n")));
    assert_eq!(whole(), [true, false]);
}

#[tokio::test]
async fn who_stands_out_is_counted_in_the_pool_where_it_does() {
    let members = (1..=6).map(|i| format!("\"10.0.0.{i}:1\"")).collect::<Vec<_>>().join(", ");
    let text =
        pool("A.r", &members) + &pool("B.r", &members) + "[defaults]\nhealth = false\noutlier = { enforce = false }\n";
    let (_controller, table) = controller(&plan(&text));
    let (snapshot, start) = (table.load(), Instant::now());
    let mut ejections = Ejections::new(start);
    let mut tick = |seconds: u64| {
        let now = start + std::time::Duration::from_secs(seconds);
        ejections.tick(&snapshot, [PoolId(0), PoolId(1)].into_iter(), |_| true, now)
    };
    assert!(tick(10).is_empty());
    let servers = servers(&table, 0);
    servers.iter().take(5).for_each(|server| requests(server, 200, 0));
    requests(&servers[5], 200, 60);
    let counted: Vec<_> = tick(20).into_iter().map(|change| change.what).collect();
    assert!(
        matches!(counted[..], [What::Counted(_, Some(PoolId(0))), What::Counted(_, Some(PoolId(1)))]),
        "{counted:?}"
    );
}

#[tokio::test]
async fn pools_that_share_a_backend_do_not_spoil_each_others_terms() {
    let text = pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\"")
        + &pool("B.r", "\"10.0.0.1:1\", \"10.0.0.3:1\"")
        + "outlier = { enforce = false, consecutive_errors = 2 }\n"
        + &pool("C.r", "\"10.0.0.1:1\"")
        + "outlier = false\n"
        + NO_CHECKS;
    let (mut controller, table) = controller(&plan(&text));
    let backend = Arc::clone(&servers(&table, 0)[0].backend);
    let counted = Outlier { enforce: false, consecutive_errors: 2, ..Outlier::default() };
    // The errors that a pool only counts are errors for the one that acts on them.
    for terms in [counted, counted, Outlier::default(), counted, Outlier::default()] {
        if let Some(told) = backend.try_request(9).expect("room").failed(false, &terms) {
            controller.observe(told);
        }
    }
    controller.flush();
    let why = |pool: u32| table.load().pool(PoolId(pool)).verdicts()[0].why.to_string();
    assert_eq!([why(0), why(1), why(2)], ["ejected", "not-checked", "not-checked"]);
    // Half-open, it gets one at a time where it was out, and as many as ever elsewhere.
    backend.half_open();
    put_in_force(&mut controller, &plan(&(text.clone() + "[limits]\nmax_headers = 99\n")));
    let at_most = |pool: u32| servers(&table, pool)[0].at_most(1024);
    assert_eq!([at_most(0), at_most(1), at_most(2)], [1, 1024, 1024]);
}
