//! The admin address: metrics, probes of life and readiness, and the API that `shardgate status`, `explain` and `reload`
//! speak to (docs/operations.md).
//!
//! It is a listener of its own on the control plane's runtime, so that nothing asked here can slow a client's request:
//! what takes long (a scrape of many series, the status of many pools) runs on a thread of its own, a few at a time, and
//! whoever comes on top is told so at once. Probes are not among those: a slow scrape must not look like a death.

mod collector;
mod config;
mod events;
mod explain;
mod guard;
mod load;
mod operator;
mod problem;
mod socket;
mod status;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{BoxError, Json, Router};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;

use explain::Question;
use guard::Guard;
use problem::Problem;
use socket::Peer;
pub use socket::Socket;
use status::Status;

use crate::control::Handle;

use crate::routing;
use crate::telemetry::CONTENT_TYPE;
use crate::tls::Front;

/// For an answer that is worked out.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A reload waits for the first round of health checks; `shardgate reload` waits two minutes.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(110);

/// Answers worked out at a time.
const MAX_REQUESTS: usize = 8;

/// Serves until it is dropped. From then on a scrape shows the Snapshot too.
///
/// `front`: what TLS begins with; `None`: in clear.
pub async fn serve(socket: Socket, front: Option<Arc<Front>>, handle: Handle) {
    handle.metrics().add_collector(Box::new(collector::State::new(handle.clone())));
    socket.serve(front, app(handle)).await;
}

/// The layers, from the outside: the guard; then, for what is worked out, a bound in number and one in time.
fn app(handle: Handle) -> Router {
    let places = GlobalConcurrencyLimitLayer::new(MAX_REQUESTS);
    let bounded = |route: MethodRouter<Handle>, timeout| {
        let layers = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(overrun))
            .layer(LoadShedLayer::new())
            .layer(places.clone())
            .layer(TimeoutLayer::new(timeout));
        route.layer(layers)
    };
    let readers = Arc::new(Semaphore::new(events::MAX_READERS));
    let follow = async move |State(handle): State<Handle>, headers: HeaderMap| {
        events::follow(&handle, &headers, Arc::clone(&readers))
    };
    let config_readers = Arc::new(Semaphore::new(config::MAX_READERS));
    let tell_config = async move |State(handle): State<Handle>, Query(parameters): Query<Vec<(String, String)>>| {
        config::tell(&handle, &parameters, &config_readers)
    };
    let change = |route: MethodRouter<Handle>| bounded(route.layer(DefaultBodyLimit::max(operator::MAX_BODY)), TIMEOUT);
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", bounded(get(metrics), TIMEOUT))
        .route("/api/v1/status", bounded(get(status), TIMEOUT))
        .route("/api/v1/config", bounded(get(tell_config), TIMEOUT))
        .route("/api/v1/explain", bounded(get(explain), TIMEOUT))
        .route("/api/v1/reload", bounded(post(reload), RELOAD_TIMEOUT))
        .route("/api/v1/regions/{region}/state", change(put(operator::region)))
        .route("/api/v1/pools/{asset}/{region}/state", change(put(operator::pool)))
        .route("/api/v1/pools/{asset}/{region}/backends/{address}/state", change(put(operator::backend)))
        .route("/api/v1/pools/{asset}/{region}/backends/{address}/load", change(put(load::put)))
        .route("/api/v1/states", bounded(get(operator::list), TIMEOUT))
        // Without the bounds of what is worked out: it lasts for as long as its reader likes.
        .route("/api/v1/events", get(follow))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "nothing is served at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method: see Allow")
        })
        .layer(middleware::from_fn_with_state(handle.clone(), guarded))
        .with_state(handle)
}

/// By the rules of the configuration in force, so that a reload can change the token.
async fn guarded(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let guard = handle.snapshot().index.plan.admin.as_ref().map(Guard::new).unwrap_or_default();
    let is_certified = request.extensions().get::<Peer>().is_some_and(|peer| peer.is_certified);
    let mut response = match guard.check(request.method(), request.uri(), request.headers(), is_certified) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                denied(&request, &problem);
            }
            problem.into_response()
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// Somebody may not write here: a line in the audit.
fn denied(request: &Request, problem: &Problem) {
    let from = request.extensions().get::<Peer>().map(|peer| &*peer.name);
    let path: String = request.uri().path().chars().take(256).collect();
    let method: String = request.method().as_str().chars().take(32).collect();
    let reason = problem.reason();
    tracing::warn!(target: "audit", method, path, reason, from, "a write was denied");
}

/// What the bounds in number and time become.
async fn overrun(error: BoxError) -> Problem {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "this took too long, and may still be going on");
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many requests to this address at once")
}

async fn readyz(State(handle): State<Handle>) -> (StatusCode, String) {
    match handle.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(handle): State<Handle>) -> Result<Response, Problem> {
    let page = apart(move || handle.metrics().encode()).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response())
}

async fn status(State(handle): State<Handle>) -> Result<Response, Problem> {
    json(move || {
        let snapshot = handle.snapshot();
        let states = handle.board().states();
        serde_json::to_vec(&Status::new(&snapshot, &states, handle.readiness(), Instant::now()))
    })
    .await
}

async fn explain(
    State(handle): State<Handle>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let question = Question::from_parameters(&parameters)?;
    json(move || {
        let snapshot = handle.snapshot();
        let mut random = fastrand::Rng::new();
        let told = routing::explain(&snapshot, &question.request, question.client, Instant::now(), &mut random);
        let mut told = serde_json::to_value(told)?;
        operator::annotate(&mut told, &handle.board().states(), Timestamp::now());
        serde_json::to_vec(&told)
    })
    .await
}

async fn reload(State(handle): State<Handle>) -> Result<Json<Value>, Problem> {
    let changes = handle.reload().await.result.map_err(Problem::refused)?;
    Ok(Json(json!({ "changes": changes })))
}

/// An answer that is worked out as JSON.
async fn json(work: impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static) -> Result<Response, Problem> {
    match apart(work).await? {
        Ok(body) => Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response()),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())),
    }
}

/// Works something out on a thread of its own, so that health checks and reloads do not wait for it.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this failed; the log says more"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;
    use tower::ServiceExt;

    use super::*;
    use crate::control::{Board, Command, ReloadReport};
    use crate::model::{Admin, Bind, Limits, Log, Plan, Region, RegionId, Server};
    use crate::routing::{Index, Table, build};
    use crate::telemetry::Metrics;

    fn plan() -> Plan {
        let drain = Duration::ZERO;
        Plan {
            hash: "00ff".into(),
            files: Vec::new(),
            server: Server { workers: None, drain_delay: drain, drain_timeout: drain, default_region: RegionId(0) },
            listeners: Vec::new(),
            admin: Some(Admin {
                bind: Bind::Tcp(([127, 0, 0, 1], 9600).into()),
                token: Some(crate::model::Secret("s3cret".into())),
                token_file: None,
                tls: None,
                protect_metrics: false,
                state_file: None,
            }),
            regions: vec![Region { name: "here".into(), clients: Vec::new(), fallback: Vec::new() }],
            assets: Vec::new(),
            pools: Vec::new(),
            routes: Vec::new(),
            limits: Limits::default(),
            log: Log::default(),
            max_metric_pools: 10,
        }
    }

    /// The app, and what arrives at the control plane.
    fn start() -> (Router, mpsc::Receiver<Command>, Arc<Board>) {
        let (sender, commands) = mpsc::channel(2 * MAX_REQUESTS);
        let table =
            Table::new(build(Arc::new(Index::new(Arc::new(plan()))), 7, Instant::now(), |_| Default::default()));
        let (changes, _) = mpsc::channel(1);
        let board = Board::new(Default::default());
        let (metrics, readiness) = (Metrics::new(10), Arc::default());
        let handle = Handle::new(sender, changes, Arc::new(table), metrics, readiness, Arc::clone(&board));
        (app(handle), commands, board)
    }

    async fn ask(app: &Router, method: &str, target: &str) -> (StatusCode, String) {
        let request = http::Request::builder()
            .method(method)
            .uri(target)
            .header("host", "localhost")
            .header("authorization", "Bearer s3cret");
        let answer = app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers_and_problems() {
        let (app, mut commands, _) = start();
        tokio::spawn(async move {
            while let Some(Command::Reload(reply)) = commands.recv().await {
                let _ = reply.send(ReloadReport { result: Err("error: no".into()) });
            }
        });
        for (request, status, word) in [
            ("GET /livez", 200, "ok"),
            ("HEAD /livez", 200, ""),
            ("GET /readyz", 503, "starting"),
            ("GET /metrics", 200, "shardgate_build_info{"),
            ("GET /api/v1/status", 200, "\"config_hash\":\"00ff\",\"generation\":7"),
            ("GET /api/v1/explain?url=/x", 200, "no_route"),
            ("GET /api/v1/explain?url=%ZZ", 400, "bad_request"),
            ("POST /api/v1/reload", 422, "error: no"),
            ("GET /api/v1/reload", 405, "method_not_allowed"),
            ("GET /api/v1/pools/x/here/backends/10.0.0.1:80/load", 405, "method_not_allowed"),
            ("PUT /api/v1/pools/x/here/backends/10.0.0.1:80/load", 400, "bad_request"),
            ("GET /", 404, "not_found"),
        ] {
            let (method, target) = request.split_once(' ').unwrap();
            let (got, body) = ask(&app, method, target).await;
            assert!(got == status && body.contains(word), "{request}: {got} {body}");
        }
    }

    fn follow(last: Option<&str>) -> http::Request<axum::body::Body> {
        let request = http::Request::builder().uri("/api/v1/events").header("host", "localhost");
        let request = last.into_iter().fold(request, |request, last| request.header("last-event-id", last));
        request.body(axum::body::Body::empty()).unwrap()
    }

    /// So many events of a stream: what they are and their data.
    async fn read(body: &mut axum::body::Body, n: usize) -> Vec<String> {
        let mut text = String::new();
        while text.matches("\n\n").count() < n {
            let frame = body.frame().await.expect("it goes on").expect("it is whole");
            text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8"));
        }
        text.split_terminator("\n\n").map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn readers_of_events_are_bounded_and_the_slow_are_told_what_they_missed() {
        let (app, _commands, board) = start();
        let mut readers = Vec::new();
        for _ in 0..events::MAX_READERS {
            let answer = app.clone().oneshot(follow(None)).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            readers.push(answer.into_body());
        }
        assert_eq!(app.clone().oneshot(follow(None)).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(&app, "GET", "/api/v1/status").await.0, 200, "they take no place from others");
        let mut slow = readers.pop().unwrap();
        board.events().emit("test", &[("n", 0.into())]);
        for reader in &mut readers {
            assert!(read(reader, 1).await[0].contains("event: test\ndata: {\"n\":0,\"time\":"));
        }
        for n in 1..1034 {
            board.events().emit("test", &[("n", n.into())]);
        }
        let told = read(&mut slow, 2).await;
        assert_eq!(told[0], "event: missed\ndata: {\"missed\":10}");
        assert!(told[1].contains("\"n\":10,"), "{}", told[1]);
        let id = told[1].lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
        drop(readers);
        let again = app.clone().oneshot(follow(Some(&id))).await.unwrap();
        assert!(read(&mut again.into_body(), 1).await[0].contains("\"n\":11,"));
    }

    #[tokio::test]
    async fn whoever_comes_on_top_is_told_and_probes_go_on() {
        let (app, mut commands, _) = start();
        let ask_for_reload = || {
            let app = app.clone();
            tokio::spawn(async move { ask(&app, "POST", "/api/v1/reload").await.0 })
        };
        let busy: Vec<_> = (0..MAX_REQUESTS).map(|_| ask_for_reload()).collect();
        let mut replies = Vec::new();
        while replies.len() < MAX_REQUESTS {
            let Some(Command::Reload(reply)) = commands.recv().await else { panic!("nothing is asked any more") };
            replies.push(reply);
        }
        let (status, body) = ask(&app, "GET", "/metrics").await;
        assert!(status == 503 && body.contains("overloaded"), "{status} {body}");
        assert_eq!(ask(&app, "GET", "/livez").await.0, 200);
        for reply in replies {
            let _ = reply.send(ReloadReport { result: Ok("nothing".into()) });
        }
        for answer in busy {
            assert_eq!(answer.await.unwrap(), 200);
        }
        assert_eq!(ask(&app, "GET", "/metrics").await.0, 200);
    }
}
