//! The admin address: metrics, probes of life and readiness, and the API that `shardgate status`, `explain` and `reload`
//! speak to (interface.md 5).
//!
//! It is a listener of its own on the control plane's runtime, so that nothing asked here can slow a client's request:
//! what takes long (a scrape of many series, the status of many pools) runs on a thread of its own, a few at a time, and
//! whoever comes on top is told so at once. Probes are not among those: a slow scrape must not look like a death.

mod explain;
mod guard;
mod problem;
mod socket;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{BoxError, Json, Router};
use http::{StatusCode, header};
use serde_json::Value;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;

pub use explain::Question;
use guard::Guard;
use problem::Problem;
pub use socket::Socket;

use crate::model::Admin;
use crate::telemetry::{CONTENT_TYPE, Metrics};

/// For an answer that is worked out.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A reload waits for the first round of health checks; `shardgate reload` waits two minutes.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(110);

/// Answers worked out at a time.
const MAX_REQUESTS: usize = 8;

/// What is asked about.
pub trait Daemon: Clone + Send + Sync + 'static {
    /// Everything that is counted.
    fn metrics(&self) -> Arc<Metrics>;
    /// Whether traffic should come, or a word for why not.
    fn readiness(&self) -> Result<(), &'static str>;
    /// Reads the configuration again: what is in force now, or every diagnostic.
    fn reload(&self) -> impl Future<Output = Result<Value, String>> + Send;
    /// Regions, assets, pools, tiers, backends. May take long.
    fn status(&self) -> Value;
    /// What a request would get. May take long.
    fn explain(&self, question: &Question) -> Value;
}

/// Serves until it is dropped.
pub async fn serve(socket: Socket, admin: &Admin, daemon: impl Daemon) {
    socket.serve(app(admin, daemon)).await;
}

/// The layers, from the outside: the guard; then, for what is worked out, a bound in number and one in time.
fn app<D: Daemon>(admin: &Admin, daemon: D) -> Router {
    let places = GlobalConcurrencyLimitLayer::new(MAX_REQUESTS);
    let bounded = |route: MethodRouter<D>, timeout| {
        let layers = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(overrun))
            .layer(LoadShedLayer::new())
            .layer(places.clone())
            .layer(TimeoutLayer::new(timeout));
        route.layer(layers)
    };
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz::<D>))
        .route("/metrics", bounded(get(metrics::<D>), TIMEOUT))
        .route("/api/v1/status", bounded(get(status::<D>), TIMEOUT))
        .route("/api/v1/explain", bounded(get(explain::<D>), TIMEOUT))
        .route("/api/v1/reload", bounded(post(reload::<D>), RELOAD_TIMEOUT))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "nothing is served at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method: see Allow")
        })
        .layer(middleware::from_fn_with_state(Arc::new(Guard::new(admin)), guarded))
        .with_state(daemon)
}

async fn guarded(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// What the bounds in number and time become.
async fn overrun(error: BoxError) -> Problem {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "this took too long, and may still be going on");
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many requests to this address at once")
}

async fn readyz<D: Daemon>(State(daemon): State<D>) -> (StatusCode, String) {
    match daemon.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics<D: Daemon>(State(daemon): State<D>) -> Result<Response, Problem> {
    let page = apart(move || daemon.metrics().encode()).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response())
}

async fn status<D: Daemon>(State(daemon): State<D>) -> Result<Json<Value>, Problem> {
    Ok(Json(apart(move || daemon.status()).await?))
}

async fn explain<D: Daemon>(
    State(daemon): State<D>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Problem> {
    let question = Question::from_parameters(&parameters)?;
    Ok(Json(apart(move || daemon.explain(&question)).await?))
}

async fn reload<D: Daemon>(State(daemon): State<D>) -> Result<Json<Value>, Problem> {
    daemon.reload().await.map(Json).map_err(Problem::refused)
}

/// Works something out on a thread of its own, so that health checks and reloads do not wait for it.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this failed; the log says more"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Mutex, PoisonError};

    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::model::Bind;

    /// Its status takes as long as the test wants.
    #[derive(Clone)]
    struct Slow {
        started: mpsc::SyncSender<()>,
        go_on: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Daemon for Slow {
        fn metrics(&self) -> Arc<Metrics> {
            Metrics::new(1)
        }

        fn readiness(&self) -> Result<(), &'static str> {
            Err("starting")
        }

        async fn reload(&self) -> Result<Value, String> {
            Err("error: no".into())
        }

        fn status(&self) -> Value {
            self.started.send(()).unwrap();
            let _ = self.go_on.lock().unwrap_or_else(PoisonError::into_inner).recv();
            Value::Null
        }

        fn explain(&self, question: &Question) -> Value {
            question.request.uri.to_string().into()
        }
    }

    fn slow() -> (Router, mpsc::Receiver<()>, mpsc::SyncSender<()>) {
        let (started, starts) = mpsc::sync_channel(MAX_REQUESTS);
        let (go, go_on) = mpsc::sync_channel(MAX_REQUESTS);
        let bind = Bind::Tcp("127.0.0.1:9600".parse().unwrap());
        let admin = Admin { bind, token: None, protect_metrics: false };
        (app(&admin, Slow { started, go_on: Arc::new(Mutex::new(go_on)) }), starts, go)
    }

    async fn ask(app: &Router, method: &str, target: &str) -> (StatusCode, String) {
        let request = http::Request::builder().method(method).uri(target).header("host", "localhost");
        let answer = app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers_and_problems() {
        let (app, ..) = slow();
        for (request, status, word) in [
            ("GET /livez", 200, "ok"),
            ("HEAD /livez", 200, ""),
            ("GET /readyz", 503, "starting"),
            ("GET /metrics", 200, "shardgate_build_info{"),
            ("GET /api/v1/explain?url=/x%3Fy", 200, "\"/x?y\""),
            ("GET /api/v1/explain?url=%ZZ", 400, "bad_request"),
            ("POST /api/v1/reload", 422, "error: no"),
            ("GET /api/v1/reload", 405, "method_not_allowed"),
            ("GET /", 404, "not_found"),
        ] {
            let (method, target) = request.split_once(' ').unwrap();
            let (got, body) = ask(&app, method, target).await;
            assert!(got == status && body.contains(word), "{request}: {got} {body}");
        }
    }

    #[tokio::test]
    async fn whoever_comes_on_top_is_told_and_probes_go_on() {
        let (app, starts, go) = slow();
        let busy: Vec<_> = (0..MAX_REQUESTS)
            .map(|_| {
                tokio::spawn({
                    let app = app.clone();
                    async move { ask(&app, "GET", "/api/v1/status").await.0 }
                })
            })
            .collect();
        let starts = tokio::task::spawn_blocking(move || {
            (0..MAX_REQUESTS).for_each(|_| starts.recv().unwrap());
            starts
        });
        let _starts = starts.await.unwrap();
        let (status, body) = ask(&app, "GET", "/metrics").await;
        assert!(status == 503 && body.contains("overloaded"), "{status} {body}");
        assert_eq!(ask(&app, "GET", "/livez").await.0, 200);
        drop(go);
        for answer in busy {
            assert_eq!(answer.await.unwrap(), 200);
        }
        assert_eq!(ask(&app, "GET", "/metrics").await.0, 200);
    }
}
