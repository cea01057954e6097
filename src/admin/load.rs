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

use super::operator;
use super::problem::Problem;
use crate::backend::Observation;
use crate::control::{Handle, Refused};
use crate::model::{LoadReport, Target};

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
    let Path((asset, region, address)) = path.map_err(operator::bad_path)?;
    let body = body.map_err(|error| Problem::new(error.status(), "bad_request", error.body_text()))?;
    let report = reported(&body)?;
    let target = Target::Backend(asset.into(), region.into(), address.into());
    let backend = handle.backend(&target).map_err(|unknown| operator::refused(Refused::Unknown(unknown)))?;
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
