//! Operators' states: which level holds, and that they hold in whatever is published, at whatever step of a Plan they
//! are said.

use jiff::Timestamp;

use super::*;
use crate::model::{Operator, Target};

use Operator::{Drain, Maintenance, Ready};

fn ask(controller: &mut Controller, text: &str, state: Operator) -> Result<Changed, Refused> {
    let (reply, mut told) = oneshot::channel();
    let target = Target::from_text(text).expect("a target");
    let author = Author { who: Some("ann".into()), ..Author::default() };
    let mut done = controller.operate(Request { change: Change { target, state, author }, reply });
    while controller.is_sweeping() {
        done = controller.sweep();
    }
    match done {
        Some(done) => Ok(done.changed),
        None => told.try_recv().expect("an answer"),
    }
}

fn say(controller: &mut Controller, text: &str, state: Operator) -> Changed {
    ask(controller, text, state).unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
}

/// Of each pool, what holds for its servers.
fn states(table: &Table) -> Vec<String> {
    let word = |server: &Server| &server.operator.as_str()[..1];
    table.load().pools().map(|pool| pool.servers().map(word).collect()).collect()
}

/// `A.r` of two servers, `B.r` of the first of them, `*.s` of one.
fn three() -> String {
    let pools = [
        pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\""),
        pool("B.r", "\"10.0.0.1:1\""),
        pool("\"*\".s", "\"[2001:db8::1]:1\""),
    ];
    pools.concat() + NO_CHECKS
}

#[tokio::test]
async fn the_most_restrictive_level_holds_and_each_is_taken_back_where_it_was_said() {
    let (mut controller, table) = controller(&plan(&three()));
    let table_of_steps = [
        ("A/r/10.0.0.1:1", Drain, (1, 1, 0), ["dr", "r", "r"]),
        ("a/R", Maintenance, (1, 2, 0), ["mm", "r", "r"]),
        ("r", Drain, (2, 2, 0), ["mm", "d", "r"]),
        ("A/r", Ready, (1, 2, 2), ["dd", "d", "r"]),
        ("r", Ready, (2, 2, 1), ["dr", "r", "r"]),
        ("A/r/10.0.0.1:1", Ready, (1, 1, 0), ["rr", "r", "r"]),
        ("*/S/[2001:DB8::1]:1", Drain, (1, 1, 0), ["rr", "r", "d"]),
        ("s", Maintenance, (1, 1, 0), ["rr", "r", "m"]),
        ("s", Maintenance, (1, 1, 0), ["rr", "r", "m"]),
        ("*/s/[2001:db8::1]:1", Ready, (1, 1, 1), ["rr", "r", "m"]),
    ];
    for (target, state, (pools, backends, held), wanted) in table_of_steps {
        let changed = say(&mut controller, target, state);
        assert_eq!((changed.pools, changed.backends, changed.held), (pools, backends, held), "{target} {state:?}");
        assert_eq!(states(&table), wanted, "{target} {state:?}");
    }
    let why: Vec<_> = table.load().pool(PoolId(2)).verdicts().iter().map(|v| (v.why.as_str(), v.usable)).collect();
    assert_eq!(why, [("maintenance", false)]);
    assert_eq!(table.load().pool(PoolId(2)).tiers[0].health, 0);
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_what_is() {
    let (mut controller, table) = controller(&plan(&three()));
    let generation = table.load().generation;
    for (target, level, help) in [
        ("q", "region", "there is no region q; there is r, s"),
        ("A/q", "region", "there is no region q; there is r, s"),
        ("A/s", "pool", "A has no pool in s; there is *"),
        ("C/r", "pool", "C has no pool in r; there is A, B"),
        ("A/r/10.0.0.3:1", "backend", "A/r has no backend 10.0.0.3:1; did you mean 10.0.0.1:1?"),
        ("B/r/10.0.0.2:1", "backend", "B/r has no backend 10.0.0.2:1; did you mean 10.0.0.1:1?"),
    ] {
        let unknown = Unknown { level, help: help.to_owned() };
        assert_eq!(ask(&mut controller, target, Drain), Err(Refused::Unknown(unknown)), "{target}");
    }
    assert_eq!((table.load().generation, controller.states().len()), (generation, 0));
}

#[tokio::test]
async fn a_state_holds_whenever_it_is_said_during_a_reload() {
    // Pool states that don't change are shared with the Snapshot before, so another pool comes and goes.
    let (first, second) = (plan(&three()), plan(&(three() + &pool("C.r", "\"10.0.0.9:1\""))));
    for moment in 0..4 {
        for (target, wanted) in
            [("A/r/10.0.0.2:1", ["rd", "r", "r", "r"]), ("r", ["dd", "d", "d", "r"]), ("*/s", ["rr", "r", "r", "d"])]
        {
            let (mut controller, table) = controller(&first);
            let at = |now, controller: &mut Controller| {
                if now == moment {
                    say(controller, target, Drain);
                }
            };
            let staging = controller.stage(Arc::clone(&second), Vec::new()).expect("no other is on its way");
            at(0, &mut controller);
            let staged = staging.run();
            at(1, &mut controller);
            drop(controller.check(staged));
            at(2, &mut controller);
            let settling = controller.settle().expect("it is on its way");
            at(3, &mut controller);
            let settled = settling.run();
            assert!(!controller.is_overtaken(&settled));
            controller.publish(settled);
            assert_eq!(states(&table), wanted, "{target} at {moment}");
            // And it is taken back as well.
            let staging = controller.stage(Arc::clone(&first), Vec::new()).expect("no other is on its way");
            drop(controller.check(staging.run()));
            let settling = controller.settle().expect("it is on its way");
            say(&mut controller, target, Ready);
            controller.publish(settling.run());
            assert_eq!(states(&table), ["rr", "r", "r"], "{target} at {moment}");
        }
    }
}

#[tokio::test]
async fn a_region_whose_pools_are_being_gone_through_is_whole_after_a_reload() {
    let (mut controller, table) = controller(&plan(&three()));
    let staged = stage(&mut controller, &plan(&(three() + &pool("C.r", "\"10.0.0.9:1\""))));
    drop(controller.check(staged));
    let settling = controller.settle().expect("it is on its way");
    let (reply, _told) = oneshot::channel();
    let change = Change { target: Target::Region("r".into()), state: Drain, author: Author::default() };
    assert!(controller.operate(Request { change, reply }).is_none() && controller.is_sweeping());
    controller.publish(settling.run());
    assert_eq!(states(&table), ["dd", "d", "d", "r"]);
    let done = controller.sweep().expect("it is done");
    assert_eq!((done.changed.pools, done.changed.backends), (3, 3));
    assert_eq!(states(&table), ["dd", "d", "d", "r"]);
}

/// So many pools that they are not judged in the moment of publication.
#[tokio::test]
async fn a_plan_that_is_overtaken_by_a_large_region_is_settled_again() {
    let pools: String = (0..5000).map(|i| format!("A{i}.r.primaries = [\"10.0.0.1:1\"]\n")).collect();
    let text = format!("{NO_CHECKS}[pools]\n{pools}");
    let (mut controller, table) = controller(&plan(&text));
    let staged = stage(&mut controller, &plan(&text));
    drop(controller.check(staged));
    let settled = controller.settle().expect("it is on its way").run();
    let changed = say(&mut controller, "r", Drain);
    assert_eq!((changed.pools, changed.backends), (5000, 1));
    assert!(controller.is_overtaken(&settled));
    let settled = controller.settle_again(settled).run();
    say(&mut controller, "A7/r", Maintenance);
    assert!(!controller.is_overtaken(&settled));
    controller.publish(settled);
    let states = states(&table);
    assert_eq!((states.len(), states.iter().filter(|state| *state == "d").count()), (5000, 4999));
}

#[tokio::test]
async fn what_a_name_leads_to_is_drained_with_its_pool() {
    let (mut controller, table) = controller(&plan(&(pool("A.r", "\"one.test:1\"") + NO_CHECKS)));
    let address = |last| IpAddr::from([10, 0, 0, last]);
    controller.resolved("one.test".into(), vec![address(1)]);
    controller.flush();
    say(&mut controller, "A/r", Drain);
    controller.resolved("one.test".into(), vec![address(1), address(2)]);
    controller.flush();
    assert_eq!(states(&table), ["dd"]);
    say(&mut controller, "A/r", Ready);
    say(&mut controller, "A/r/10.0.0.2:1", Drain);
    controller.resolved("one.test".into(), vec![address(3)]);
    controller.flush();
    assert_eq!(states(&table), ["r"]);
    controller.resolved("one.test".into(), vec![address(2), address(3)]);
    controller.flush();
    assert_eq!(states(&table), ["dr"], "it is back and still drained");
}

#[tokio::test]
async fn what_was_said_before_holds_in_the_first_snapshot_and_over_absence() {
    let mut said = States::default();
    for text in ["A/r", "C/r", "*/s/[2001:db8::1]:1"] {
        let target = Target::from_text(text).expect("a target");
        let since = Timestamp::now();
        said.say(Said { target, state: Drain, since, author: Author::default(), absent_since: None });
    }
    let board = Board::new(said);
    let (mut controller, table) = controller_of(&plan(&three()), Arc::clone(&board));
    assert_eq!(states(&table), ["dd", "r", "d"]);
    let absent = || board.states().iter().filter(|said| said.absent_since.is_some()).count();
    assert_eq!(absent(), 1, "C is not configured");
    put_in_force(&mut controller, &plan(&(pool("B.r", "\"10.0.0.1:1\"") + NO_CHECKS)));
    assert_eq!((states(&table), absent()), (vec!["r".to_owned()], 3));
    put_in_force(&mut controller, &plan(&(three() + &pool("C.r", "\"10.0.0.9:1\""))));
    assert_eq!((states(&table), absent()), (["dd", "r", "d", "d"].map(str::to_owned).to_vec(), 0));
    // What is not there can be taken back, too, and then is unknown.
    put_in_force(&mut controller, &plan(&three()));
    let changed = say(&mut controller, "c/R", Ready);
    assert_eq!((changed.target.to_string(), changed.before, changed.pools), ("C/r".to_owned(), Drain, 0));
    assert!(ask(&mut controller, "C/r", Ready).is_err());
    put_in_force(&mut controller, &plan(&(three() + &pool("C.r", "\"10.0.0.9:1\""))));
    assert_eq!(states(&table), ["dd", "r", "r", "d"]);
}

#[tokio::test]
async fn who_comes_back_warms_up_unless_it_never_was_away() {
    let text = three() + "slow_start = { window = \"60s\" }\n";
    let (mut controller, table) = controller(&plan(&text));
    let warming = |table: &Table| table.load().pools().map(|pool| pool.is_warming_up()).collect::<Vec<_>>();
    say(&mut controller, "A/r", Drain);
    say(&mut controller, "A/r", Ready);
    let snapshot = table.load();
    let shares: Vec<_> = snapshot.pool(PoolId(0)).servers().map(|server| server.share < WHOLE).collect();
    assert_eq!(shares, [false, true], "the first one has served B all the time");
    say(&mut controller, "s", Drain);
    assert_eq!(warming(&table), [true, false, false]);
    say(&mut controller, "s", Ready);
    assert_eq!(warming(&table), [true, false, true]);
}

#[tokio::test]
async fn who_comes_back_during_a_reload_does_not_stay_cold() {
    let plan = plan(&(three() + "slow_start = { window = \"300ms\" }\n"));
    for is_settled_later in [true, false] {
        let (mut controller, table) = controller(&plan);
        say(&mut controller, "s", Drain);
        let staged = stage(&mut controller, &plan);
        drop(controller.check(staged));
        if is_settled_later {
            say(&mut controller, "s", Ready);
        }
        let settling = controller.settle().expect("it is on its way");
        if !is_settled_later {
            say(&mut controller, "s", Ready);
        }
        controller.publish(settling.run());
        let end = Instant::now() + std::time::Duration::from_secs(60);
        while table.load().pool(PoolId(2)).is_warming_up() {
            assert!(Instant::now() < end, "it stays cold");
            drop(controller.tick());
        }
    }
}

#[tokio::test]
async fn changes_are_counted_and_told() {
    let (mut controller, _) = controller(&plan(&three()));
    let mut events = controller.board.events().subscribe(None).future;
    say(&mut controller, "r", Drain);
    say(&mut controller, "A/r", Drain);
    say(&mut controller, "A/r", Drain);
    say(&mut controller, "r", Ready);
    let page = controller.metrics.encode();
    for (backend, asset, to, n) in [
        ("10.0.0.1:1", "A", "down", 1),
        ("10.0.0.2:1", "A", "down", 1),
        ("10.0.0.1:1", "B", "down", 1),
        ("10.0.0.1:1", "B", "up", 1),
    ] {
        let labels = format!("asset=\"{asset}\",region=\"r\",backend=\"{backend}\",to=\"{to}\",cause=\"admin\"");
        let line = format!("shardgate_backend_transitions_total{{{labels}}} {n}");
        assert!(page.contains(&line), "no {line} in\n{page}");
    }
    assert!(!page.contains("asset=\"A\",region=\"r\",backend=\"10.0.0.1:1\",to=\"up\""), "its pool is still drained");
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let after = |event: &Event| serde_json::from_str::<serde_json::Value>(&event.data).expect("JSON")["after"].clone();
    assert_eq!(told.iter().map(|event| after(event)).collect::<Vec<_>>(), ["drain", "drain", "ready"]);
}

#[tokio::test]
async fn what_was_said_of_an_asset_does_not_hold_for_the_one_whose_alias_it_becomes() {
    let two = pool("A.r", "\"10.0.0.1:1\"") + &pool("B.r", "\"10.0.0.2:1\"") + NO_CHECKS;
    let (mut controller, table) = controller(&plan(&two));
    say(&mut controller, "B/r", Drain);
    say(&mut controller, "B/r/10.0.0.2:1", Drain);
    let one = pool("A.r", "\"10.0.0.1:1\", \"10.0.0.2:1\"") + "[assets.A]\naliases = [\"B\"]\n" + NO_CHECKS;
    put_in_force(&mut controller, &plan(&one));
    assert_eq!(states(&table), ["rr"]);
    let absent =
        |controller: &Controller| controller.board.states().iter().filter(|said| said.absent_since.is_some()).count();
    assert_eq!(absent(&controller), 2, "they wait for it to come back");
    // By the alias, the asset is meant; what waits can be taken back by its own name.
    assert_eq!(say(&mut controller, "B/r", Ready).before, Drain);
    assert_eq!((states(&table), absent(&controller)), (vec!["rr".into()], 1));
    assert_eq!(say(&mut controller, "B/r", Drain).target.to_string(), "A/r");
    assert_eq!(states(&table), ["dd"]);
}
