//! `PUT /api/v1/pools/{asset}/{region}/backends/{address}/load`: a load report from elsewhere than the server's answers.
//!
//! From here on it is one like those. It is about the server, so it counts in every pool that the server is in.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::backend::{Backend, Observation};
use crate::control::Handle;
use crate::model::LoadReport;
use crate::routing::Snapshot;

/// Bytes of a body, at most.
pub(super) const MAX_BODY: usize = 4096;

/// What is reported.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reported {
    utilization: f64,
    #[serde(default)]
    rps: f64,
    #[serde(default)]
    eps: f64,
}

/// `PUT /api/v1/pools/{asset}/{region}/backends/{address}/load`
pub(super) async fn put(
    State(handle): State<Handle>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let bad_path = |error: PathRejection| Problem::new(StatusCode::BAD_REQUEST, "bad_request", error.body_text());
    let Path((asset, region, address)) = path.map_err(bad_path)?;
    let body = body.map_err(|error| Problem::new(error.status(), "bad_request", error.body_text()))?;
    let report = reported(&body)?;
    let backend = find(&handle.snapshot(), &asset, &region, &address)?;
    let words = backend.words_or_new();
    if words.report(report, true) && !handle.tell(Observation::Reports(Arc::clone(&backend))) {
        words.unwatched();
        let detail = "the control plane is behind; try again";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail));
    }
    let LoadReport { utilization, rps, eps } = report;
    Ok(Json(json!({ "backend": &*backend.label, "utilization": utilization, "rps": rps, "eps": eps })))
}

/// Reads a body.
fn reported(body: &[u8]) -> Result<LoadReport, Problem> {
    let Reported { utilization, rps, eps } = serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", format!("send {{\"utilization\":0.7}}: {error}"))
    })?;
    LoadReport::new(utilization, rps, eps).ok_or_else(|| {
        let detail = "utilization is a number above 0 (1.0: all that the server can do); rps and eps are not negative";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_report", detail)
    })
}

/// The backend of this name.
fn find(snapshot: &Snapshot, asset: &str, region: &str, address: &str) -> Result<Arc<Backend>, Problem> {
    let unknown = |reason, detail| Problem::new(StatusCode::NOT_FOUND, reason, detail);
    let index = &snapshot.index;
    let Some(id) = index.region(region) else {
        return Err(unknown("unknown_region", format!("there is no region {region}")));
    };
    let named = if asset == "*" { Some(None) } else { index.asset(asset).map(Some) };
    let Some(pool) = named.and_then(|asset| index.own_pool(asset, id)) else {
        return Err(unknown("unknown_pool", format!("{asset} has no pool in {region}")));
    };
    let found = snapshot.pool(pool).servers().find(|server| *server.backend.label == *address);
    found
        .map(|server| Arc::clone(&server.backend))
        .ok_or_else(|| unknown("unknown_backend", format!("{asset}/{region} has no backend {address}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        for (body, expected) in [
            ("{\"utilization\":0.7}", Ok((0.7, None, None))),
            ("{\"utilization\":1,\"rps\":100,\"eps\":2.5}", Ok((1.0, Some(100.0), Some(2.5)))),
            ("", Err("bad_request")),
            ("{}", Err("bad_request")),
            ("{\"utilization\":\"0.7\"}", Err("bad_request")),
            ("{\"utilization\":0.7,\"weight\":2}", Err("bad_request")),
            ("{\"utilization\":0.7,\"utilization\":0.7}", Err("bad_request")),
            ("{\"utilization\":1e999}", Err("bad_request")),
            ("{\"utilization\":0}", Err("bad_report")),
            ("{\"utilization\":-1}", Err("bad_report")),
            ("{\"utilization\":0.5,\"rps\":-1}", Err("bad_report")),
        ] {
            match (reported(body.as_bytes()), expected) {
                (Ok(report), Ok(expected)) => {
                    assert_eq!((report.utilization, report.rps, report.eps), expected, "{body}");
                }
                (Err(problem), Err(reason)) => assert!(format!("{problem:?}").contains(reason), "{body}: {problem:?}"),
                (read, _) => panic!("{body}: {read:?}"),
            }
        }
    }
}
