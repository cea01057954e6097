//! `shardgate drain` and `shardgate ready`: an operator's word to the running daemon.

use anyhow::Context;
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::admin::{refused, request};
use super::fault::Fault;
use super::{Daemon, print, print_json};
use crate::model::{Operator, Target};

/// What stands in a segment of a path as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Puts a region, a pool or a backend into this state.
pub(super) fn operate(daemon: &Daemon, target: &str, state: Operator, reason: Option<&str>) -> Result<(), Fault> {
    let Some(path) = Target::from_text(target).map(|target| path(&target)) else {
        let forms = "a target is REGION, ASSET/REGION or ASSET/REGION/ADDRESS";
        return Err(Fault::Usage(format!("{target:?} has an empty part: {forms}")));
    };
    let body = json!({ "state": state.as_str(), "who": user(), "reason": reason });
    let (status, answer) = request(daemon, Method::PUT, &path, Some(&body))?;
    let value: Option<Value> = serde_json::from_slice(&answer).ok();
    match status {
        StatusCode::OK => {
            let value = value.context("the daemon's answer is not what this version reads")?;
            if daemon.json {
                print_json(&answer)?
            } else {
                print(told(&value))?
            }
            warn(&value);
            Ok(())
        }
        // A name or a word that is wrong, as the daemon says; without its problem document it was not the daemon.
        StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
            let problem = value.as_ref().filter(|problem| problem["reason"] != "not_found");
            match problem.and_then(|problem| problem["detail"].as_str()) {
                Some(detail) => Err(Fault::Wrong(format!("error: {detail}"))),
                None => Err(refused(status, &answer)),
            }
        }
        _ => Err(refused(status, &answer)),
    }
}

fn path(target: &Target) -> String {
    let part = |part: &str| utf8_percent_encode(part, SEGMENT).to_string();
    match target {
        Target::Region(region) => format!("/api/v1/regions/{}/state", part(region)),
        Target::Pool(asset, region) => format!("/api/v1/pools/{}/{}/state", part(asset), part(region)),
        Target::Backend(asset, region, address) => {
            format!("/api/v1/pools/{}/{}/backends/{}/state", part(asset), part(region), part(address))
        }
    }
}

/// Who asks, for the audit: as their environment says it, else by number. Services and containers have no name there.
fn user() -> String {
    let said = |name| std::env::var(name).ok().filter(|user: &String| !user.is_empty());
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(said);
    // What the daemon would refuse is no name; and another variable's would be another user's.
    let is_name = |user: &String| user.chars().count() <= 128 && !user.chars().any(char::is_control);
    named.filter(is_name).unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// `gold/north: ready -> drain (3 backends in 1 pool)`
fn told(answer: &Value) -> String {
    let [target, before, after] = ["target", "before", "after"].map(|name| answer[name].as_str().unwrap_or("-"));
    let backends = counted(&answer["backends"], "backend");
    let about = match answer["level"].as_str() {
        Some("region") => format!("{backends} in {}", counted(&answer["pools"], "pool")),
        _ => backends,
    };
    if before == after {
        return format!("{target}: is in {after} already ({about})\n").replace("is in ready", "is ready");
    }
    format!("{target}: {before} -> {after} ({about})\n")
}

/// What whoever asked should know besides.
#[expect(clippy::print_stderr, reason = "a command's own standard error")]
fn warn(answer: &Value) {
    if answer["held"].as_u64().is_some_and(|held| held > 0) {
        let held = counted(&answer["held"], "backend");
        eprintln!("note: another level still keeps {held} of it out; `shardgate status` says which");
    }
    if answer["saved"] == false {
        let why = answer["not_saved"].as_str().unwrap_or("the daemon does not say why");
        eprintln!("note: this will not survive a restart: {why}");
    }
}

fn counted(number: &Value, what: &str) -> String {
    let number = number.as_u64().unwrap_or(0);
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_targets() {
        for (text, wanted) in [
            ("us east", "/api/v1/regions/us%20east/state"),
            ("*/north", "/api/v1/pools/%2A/north/state"),
            ("a.b/north/[::1]:80", "/api/v1/pools/a.b/north/backends/%5B%3A%3A1%5D%3A80/state"),
            ("gold/north/unix:/run/x", "/api/v1/pools/gold/north/backends/unix%3A%2Frun%2Fx/state"),
        ] {
            assert_eq!(path(&Target::from_text(text).expect("a target")), wanted);
        }
    }

    #[test]
    fn what_is_told() {
        let answer = |level, before, after, backends| json!({ "target": "north", "level": level, "before": before, "after": after, "backends": backends, "pools": 2 });
        assert_eq!(told(&answer("region", "ready", "drain", 1)), "north: ready -> drain (1 backend in 2 pools)\n");
        assert_eq!(told(&answer("pool", "drain", "ready", 3)), "north: drain -> ready (3 backends)\n");
        assert_eq!(told(&answer("pool", "drain", "drain", 3)), "north: is in drain already (3 backends)\n");
        assert_eq!(told(&answer("pool", "ready", "ready", 3)), "north: is ready already (3 backends)\n");
    }
}
