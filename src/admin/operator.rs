//! Operators' states over HTTP: `PUT …/state`, `GET /api/v1/states`, and how `status` and `explain` show them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem::Problem;
use super::socket::Peer;
use crate::control::{Author, Change, Changed, Handle, MAX_STATES, Refused, Said, States};
use crate::model::{Operator, Target};

/// Bytes of a body, at most.
pub(super) const MAX_BODY: usize = 4096;

/// Characters of who says something, and of why.
const MAX_WHO: usize = 128;
const MAX_REASON: usize = 512;

/// What is asked for.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    state: String,
    who: Option<String>,
    reason: Option<String>,
}

/// A state as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'s> {
    state: &'static str,
    /// Which level has it: `region`, `pool`, `backend`.
    level: &'static str,
    since: String,
    /// How long it has been so.
    seconds: f64,
    who: Option<&'s str>,
    reason: Option<&'s str>,
    from: Option<&'s str>,
}

impl<'s> Shown<'s> {
    /// At this time.
    pub(super) fn new(said: &'s Said, now: Timestamp) -> Self {
        Self {
            state: said.state.as_str(),
            level: said.target.level(),
            since: said.since.to_string(),
            seconds: now.duration_since(said.since).as_secs_f64().max(0.0),
            who: said.author.who.as_deref(),
            reason: said.author.reason.as_deref(),
            from: said.author.from.as_deref(),
        }
    }
}

/// `PUT /api/v1/regions/{region}/state`
pub(super) async fn region(
    State(handle): State<Handle>,
    peer: Option<Extension<Peer>>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let Path(region) = path.map_err(bad_path)?;
    change(&handle, Target::Region(region.into()), peer, body).await
}

/// `PUT /api/v1/pools/{asset}/{region}/state`
pub(super) async fn pool(
    State(handle): State<Handle>,
    peer: Option<Extension<Peer>>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let Path((asset, region)) = path.map_err(bad_path)?;
    change(&handle, Target::Pool(asset.into(), region.into()), peer, body).await
}

/// `PUT /api/v1/pools/{asset}/{region}/backends/{address}/state`
pub(super) async fn backend(
    State(handle): State<Handle>,
    peer: Option<Extension<Peer>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let Path((asset, region, address)) = path.map_err(bad_path)?;
    change(&handle, Target::Backend(asset.into(), region.into(), address.into()), peer, body).await
}

async fn change(
    handle: &Handle,
    target: Target,
    peer: Option<Extension<Peer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), "bad_request", error.body_text()))?;
    let (state, mut author) = asked(&body)?;
    author.from = peer.map(|Extension(peer)| peer.name.to_string());
    let changed = handle.change(Change { target, state, author }).await.map_err(refused)?;
    Ok(Json(told(&changed)))
}

/// Reads a body.
fn asked(body: &[u8]) -> Result<(Operator, Author), Problem> {
    let wrong = |reason, detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason, detail);
    let Asked { state, who, reason } = serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", format!("send {{\"state\":\"drain\"}}: {error}"))
    })?;
    let Some(state) = Operator::from_word(&state) else {
        let words = Operator::ALL.map(Operator::as_str).join(", ");
        return Err(wrong("unknown_state", format!("no state is called {state:?}; there is {words}")));
    };
    let text = |name: &str, text: Option<String>, max| match text {
        Some(text) if text.chars().count() > max => {
            Err(wrong("bad_text", format!("{name} is longer than {max} characters")))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(wrong("bad_text", format!("{name} has control characters")))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    };
    let (who, reason) = (text("who", who, MAX_WHO)?, text("reason", reason, MAX_REASON)?);
    Ok((state, Author { who, reason, from: None }))
}

pub(super) fn bad_path(error: PathRejection) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", error.body_text())
}

pub(super) fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Unknown(unknown) => {
            let reason = match unknown.level {
                "region" => "unknown_region",
                "pool" => "unknown_pool",
                _ => "unknown_backend",
            };
            Problem::new(StatusCode::NOT_FOUND, reason, unknown.help)
        }
        Refused::TooMany => {
            let detail = format!("{MAX_STATES} states are set already; set that of a pool or a region instead");
            Problem::new(StatusCode::CONFLICT, "too_many_states", detail)
        }
        Refused::Ending => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "shardgate is shutting down"),
    }
}

fn told(changed: &Changed) -> Value {
    json!({
        "target": changed.target.to_string(),
        "level": changed.target.level(),
        "before": changed.before.as_str(),
        "after": changed.after.as_str(),
        "pools": changed.pools,
        "backends": changed.backends,
        "held": changed.held,
        "saved": changed.saved.is_ok(),
        "not_saved": changed.saved.as_ref().err(),
    })
}

/// `GET /api/v1/states`
pub(super) async fn list(State(handle): State<Handle>) -> Json<Value> {
    let (states, now) = (handle.board().states(), Timestamp::now());
    let line = |said: &Said| {
        let [region, asset, backend] = said.target.parts().map(|part| part.map(|part| part.to_string()));
        json!({
            "target": said.target.to_string(),
            "region": region,
            "asset": asset,
            "backend": backend,
            "operator": Shown::new(said, now),
            "configured": said.absent_since.is_none(),
        })
    };
    let lines: Vec<_> = states.iter().map(|said| line(said)).collect();
    Json(json!({ "states": lines }))
}

/// Adds to an explanation what operators have said of the servers in it.
pub(super) fn annotate(explanation: &mut Value, states: &States, now: Timestamp) {
    if states.is_empty() {
        return;
    }
    for tier in explanation["tiers"].as_array_mut().into_iter().flatten() {
        let [asset, region] = ["asset", "region"].map(|name| tier[name].as_str().unwrap_or_default().into());
        for server in tier["servers"].as_array_mut().into_iter().flatten() {
            let address = server["backend"].as_str().unwrap_or_default().into();
            if let Some(said) = states.holding(&asset, &region, &address) {
                server["operator"] = json!(Shown::new(said, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let long = format!("{{\"state\":\"drain\",\"who\":\"{}\"}}", "é".repeat(MAX_WHO + 1));
        for (body, result) in [
            ("{\"state\":\"drain\"}", Ok((Operator::Drain, None))),
            (" {\"state\":\"ready\", \"who\":\"\"}", Ok((Operator::Ready, None))),
            (
                "{\"state\":\"maintenance\",\"who\":\"ann\",\"reason\":\"disks\"}",
                Ok((Operator::Maintenance, Some("ann"))),
            ),
            ("", Err("bad_request")),
            ("drain", Err("bad_request")),
            ("{}", Err("bad_request")),
            ("{\"state\":1}", Err("bad_request")),
            ("{\"state\":\"drain\",\"force\":true}", Err("bad_request")),
            ("{\"state\":\"drain\"}x", Err("bad_request")),
            ("{\"state\":\"Drain\"}", Err("unknown_state")),
            ("{\"state\":\"\"}", Err("unknown_state")),
            ("{\"state\":\"drain\",\"who\":\"a\\nb\"}", Err("bad_text")),
            ("{\"state\":\"drain\",\"reason\":\"\\u001b[2J\"}", Err("bad_text")),
            (&long, Err("bad_text")),
        ] {
            let read = asked(body.as_bytes());
            match (&read, result) {
                (Ok((state, author)), Ok((wanted, who))) => {
                    assert_eq!((*state, author.who.as_deref()), (wanted, who), "{body}");
                }
                (Err(problem), Err(reason)) => assert!(format!("{problem:?}").contains(reason), "{body}: {problem:?}"),
                _ => panic!("{body}: {read:?}"),
            }
        }
    }
}
