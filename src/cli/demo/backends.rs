//! The demo's own backends: small HTTP servers on loopback that answer with a forecast, and a control address that
//! kills and revives them.
//!
//! A backend that was killed behaves as a dead process does: its connections end and new ones are refused. Its port
//! stays bound (not listening) meanwhile, so that nobody else gets it and it can come back.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::forecast::{METHOD, forecast};

/// The step that forecasts look ahead at most.
const MAX_HORIZON: u32 = 30;

/// What one backend is and serves.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Whose forecast it computes.
    pub(super) asset: String,
    /// Where it stands.
    pub(super) region: String,
    /// `primary` or `replica`.
    pub(super) role: &'static str,
    /// The history.
    pub(super) prices: Arc<[f64]>,
    /// What the history is, said in every answer.
    pub(super) note: Arc<str>,
    /// The time between two values of the history.
    pub(super) step: Arc<str>,
}

/// A backend with its port.
struct Backend {
    sample: Sample,
    address: SocketAddr,
    /// Bound for as long as the demo lives.
    _reserved: Socket,
    /// Whether it shall serve; written by the control address.
    wanted: watch::Sender<bool>,
    /// Whether it does; written by its own task.
    serving: watch::Sender<bool>,
}

/// Starts them on a thread of their own. Gives the control address, and each backend's in the order of `samples`.
pub(super) fn start(samples: Vec<Sample>) -> io::Result<(SocketAddr, Vec<SocketAddr>)> {
    let mut backends = Vec::with_capacity(samples.len());
    for sample in samples {
        let reserved = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = reserved.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (wanted, serving) = (watch::Sender::new(true), watch::Sender::new(false));
        backends.push(Arc::new(Backend { sample, address, _reserved: reserved, wanted, serving }));
    }
    let addresses = backends.iter().map(|b| b.address).collect();
    let control = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    control.set_nonblocking(true)?;
    let control_address = control.local_addr()?;
    let listeners = backends.iter().map(|b| listening(b.address)).collect::<io::Result<Vec<_>>>()?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-backends".into()).spawn(move || {
        runtime.block_on(async move {
            for (backend, listener) in backends.iter().zip(listeners) {
                tokio::spawn(live(backend.clone(), listener));
            }
            if let Ok(listener) = TcpListener::from_std(control) {
                let backends: Arc<[Arc<Backend>]> = backends.into();
                accept(&listener, move |request| command(backends.clone(), request)).await;
            }
        });
    })?;
    Ok((control_address, addresses))
}

/// One backend's life: serve until killed, wait until revived.
async fn live(backend: Arc<Backend>, first: std::net::TcpListener) {
    let mut wanted = backend.wanted.subscribe();
    let mut listener = Some(first);
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let opened = listener.take().map_or_else(|| listening(backend.address), Ok).and_then(TcpListener::from_std);
        match opened {
            Ok(listener) => {
                backend.serving.send_replace(true);
                // Dropping the connections' tasks with the listener is what a killed process looks like.
                let answer = {
                    let backend = backend.clone();
                    move |request: Request<Incoming>| {
                        let answer = backend.answer(request.method(), request.uri());
                        async move { answer }
                    }
                };
                tokio::select! {
                    () = accept(&listener, answer) => {}
                    _ = wanted.wait_for(|wanted| !*wanted) => {}
                }
            }
            Err(error) => {
                tracing::warn!(address = %backend.address, %error, "a sample backend can't listen");
                backend.wanted.send_replace(false);
            }
        }
        backend.serving.send_replace(false);
    }
}

/// Accepts and serves for ever; dropping it ends every connection.
async fn accept<F, A>(listener: &TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(serve(stream, answer.clone())); }
                // Out of descriptors, most likely: the connections that are served will end and give some back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve<F, A>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // An error here is a client that went away.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Backend {
    fn answer(&self, method: &Method, uri: &http::Uri) -> Response<Full<Bytes>> {
        if uri.path() == "/healthz" {
            return reply(StatusCode::OK, &json!({ "status": "ok" }));
        }
        if !matches!(*method, Method::GET | Method::HEAD | Method::POST) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "GET or POST" }));
        }
        let asked = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("horizon="));
        let horizon = match asked.map_or(Ok(1), str::parse) {
            Ok(horizon @ 1..=MAX_HORIZON) => horizon,
            _ => {
                let error = format!("horizon is a number from 1 to {MAX_HORIZON}");
                return reply(StatusCode::BAD_REQUEST, &json!({ "error": error }));
            }
        };
        let sample = &self.sample;
        let Some(found) = forecast(&sample.prices, horizon) else {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "the history is too short" }));
        };
        let answer = json!({
            "asset": sample.asset,
            "forecast": {
                "value": found.value,
                "plus_minus_95": found.plus_minus,
                "steps_ahead": horizon,
                "step": &*sample.step,
                "method": METHOD,
            },
            "history": { "values": sample.prices.len(), "last": sample.prices.last() },
            "sample": true,
            "note": &*sample.note,
            "served_by": { "region": sample.region, "role": sample.role, "backend": self.address.to_string() },
        });
        reply(StatusCode::OK, &answer)
    }

    /// Whether `ASSET`, `ASSET/REGION` or `ASSET/REGION/ADDRESS` means this one.
    fn is(&self, target: &str) -> bool {
        let address = self.address.to_string();
        let own = [self.sample.asset.as_str(), self.sample.region.as_str(), address.as_str()];
        let mut parts = target.split('/');
        target.split('/').count() <= own.len() && own.iter().all(|o| parts.next().is_none_or(|p| p == *o))
    }
}

/// `POST /die/TARGET`, `POST /revive/TARGET`; anything else lists the backends.
async fn command(backends: Arc<[Arc<Backend>]>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let order = match path.trim_start_matches('/').split_once('/') {
        Some(("die", target)) => Some((false, target)),
        Some(("revive", target)) => Some((true, target)),
        _ => None,
    };
    let Some((alive, target)) = order.filter(|_| request.method() == Method::POST) else {
        let list: Vec<Value> = backends.iter().map(|b| b.describe()).collect();
        return reply(
            StatusCode::OK,
            &json!({ "backends": list, "orders": ["POST /die/ASSET[/REGION[/ADDRESS]]", "POST /revive/…"] }),
        );
    };
    let meant: Vec<&Arc<Backend>> = backends.iter().filter(|b| b.is(target)).collect();
    if meant.is_empty() {
        return reply(StatusCode::NOT_FOUND, &json!({ "error": format!("no backend is {target}") }));
    }
    for backend in &meant {
        backend.wanted.send_replace(alive);
        // Its task can only be gone when the demo ends.
        let _ = backend.serving.subscribe().wait_for(|serving| *serving == alive).await;
    }
    let list: Vec<Value> = meant.iter().map(|b| b.describe()).collect();
    reply(StatusCode::OK, &json!({ "backends": list }))
}

impl Backend {
    fn describe(&self) -> Value {
        json!({
            "target": format!("{}/{}/{}", self.sample.asset, self.sample.region, self.address),
            "role": self.sample.role,
            "alive": *self.serving.borrow(),
        })
    }
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    // `to_string_pretty` of a Value cannot fail; the alternative form is there for the type.
    let text = serde_json::to_string_pretty(body).unwrap_or_else(|_| body.to_string()) + "\n";
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listening(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bound(address)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
