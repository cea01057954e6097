//! The counts, their guards, and what is told when.

use super::*;
use crate::model::{Address, Detector, Protocol};

fn backend() -> Arc<Backend> {
    let address = Address::Ip("10.1.0.11:8000".parse().unwrap());
    Backend::new(Identity { region: "north".into(), address, protocol: Protocol::H1, tls: None })
}

#[test]
fn guards_count_down_when_dropped() {
    let backend = backend();
    assert_eq!(&*backend.label, "10.1.0.11:8000");
    let one = backend.try_request(2);
    let two = backend.try_request(2);
    assert!(one.is_some() && two.is_some());
    assert!(backend.try_request(2).is_none());
    assert_eq!(backend.in_flight(), 2);
    drop(one);
    assert_eq!(backend.in_flight(), 1);
    assert!(backend.try_request(2).is_some());
    assert_eq!(backend.in_flight(), 1);
    drop(two);
    assert_eq!(backend.in_flight(), 0);
    assert!(backend.try_request(0).is_none());
}

#[test]
fn a_full_backend_is_starved_until_a_connection_closes() {
    let backend = backend();
    let held = backend.try_connection(1).unwrap();
    assert!(!backend.starved());
    assert!(backend.try_connection(1).is_none());
    assert!(backend.starved());
    assert_eq!(held.backend().connections(), 1);
    drop(held);
    assert!(!backend.starved());
    assert_eq!(backend.connections(), 0);
}

#[test]
fn the_limit_holds_over_threads() {
    let backend = backend();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let guard = backend.try_request(3);
                    assert!(backend.in_flight() <= 3);
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(backend.in_flight(), 0);
}

#[test]
fn errors_in_a_row_are_told_and_one_success_ends_the_row() {
    let backend = backend();
    let terms = Outlier { consecutive_errors: 3, ..Outlier::default() };
    let request = backend.try_request(9).unwrap();
    let told = |ends: &[bool]| -> Vec<bool> {
        let end =
            |good: &bool| if *good { request.succeeded(Some(&terms)) } else { request.failed(false, &terms) }.is_some();
        ends.iter().map(end).collect()
    };
    // Once there are too many each one tells, for the first word may have been lost.
    assert_eq!(told(&[false, false, true, false, false, false, false]), [[false; 5].as_slice(), &[true; 2]].concat());
    assert_eq!(backend.tally(), (1, 6));
    assert!(!backend.are_errors_shallow());
    let now = Instant::now();
    backend.eject(Ejection { since: now, until: now, detector: Detector::ConsecutiveErrors, shallow: false });
    assert_eq!(told(&[false; 4]), [false; 4]);
    // One that was spared answers well, which changes nothing. Then its time has come: what is asked of it since the
    // ejection decides, where it can be ejected.
    assert_eq!(told(&[true]), [false]);
    let newer = backend.try_request(9).unwrap();
    assert!(newer.succeeded(Some(&terms)).is_none());
    backend.half_open();
    assert_eq!(told(&[false, true]), [false, false]);
    assert!(newer.failed(false, &terms).is_some() && newer.succeeded(Some(&terms)).is_some());
    assert!(newer.succeeded(None).is_none() && newer.succeeded(Some(&Outlier { enforce: false, ..terms })).is_none());
    drop(newer);
    backend.trust();
    assert!(backend.are_errors_shallow());
    // What was under way before the ejection is in no row.
    assert!((0..4).all(|_| request.failed(false, &terms).is_none()) && backend.are_errors_shallow());
    let newest = backend.try_request(9).unwrap();
    assert!(newest.failed(true, &terms).is_none() && backend.are_errors_shallow());
    let told: Vec<_> = (0..2).map(|_| newest.failed(false, &terms).is_some()).collect();
    assert_eq!((told, backend.are_errors_shallow()), (vec![false, true], false));
    drop(newest);
    assert_eq!(backend.in_flight(), 1);
}

#[test]
fn answers_are_taken_once_and_a_found_limit_holds() {
    let backend = backend();
    let request = backend.try_request(9).unwrap();
    request.answered(Duration::from_millis(3));
    request.answered(Duration::from_secs(86_400));
    assert_eq!(backend.take_answers(), (2, Duration::from_millis(3_600_003)));
    assert_eq!(backend.take_answers(), (0, Duration::ZERO));
    assert_eq!(backend.limit(), None);
    backend.set_limit(Some(1));
    assert!(backend.try_request(9).is_none());
    backend.set_limit(None);
    assert!(backend.try_request(9).is_some());
}

#[test]
fn the_last_connect_counts() {
    let backend = backend();
    assert!(!backend.last_connect_refused());
    backend.note_connect(true);
    assert!(backend.last_connect_refused());
    backend.note_connect(false);
    assert!(!backend.last_connect_refused());
}
