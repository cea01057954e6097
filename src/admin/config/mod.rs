//! `GET /api/v1/config`: the configuration in force, as it was understood: in the words of the file, with every default,
//! without a secret.
//!
//! It is made of the Plan and of nothing else, so that it can't differ from what is served; what is secret is not in
//! there (keys, in types that don't print them) or is marked in it (values of header fields). What it says as `config`
//! is a configuration again, but for what is hidden: whoever writes it as TOML and loads it gets the same Plan.
//!
//! A million pools are gigabytes of it. So it is written piece by piece, by a thread that waits for its reader; who reads
//! too slowly is cut off, since the thread keeps the Plan in memory. `asset` and `region` choose pools.

mod pools;
mod routes;
mod words;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{StatusCode, header};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::problem::Problem;
use crate::control::Handle;
use crate::model::{
    Admin, AssetId, Limits, Listener, Log, LogFormat, LogLevel, LogSink, Plan, Pool, PoolAsset, RegionId, Tls,
};
use words::{duration, path, rate, size};

/// Readers at a time.
pub(super) const MAX_READERS: usize = 2;

/// For one answer, from its first byte to its last.
const DEADLINE: Duration = Duration::from_secs(300);

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

/// Pieces that wait for the reader.
const AHEAD: usize = 2;

/// Which pools are asked for; with none of them, all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Filter {
    asset: Option<PoolAsset>,
    region: Option<RegionId>,
}

/// The answer.
struct Document {
    plan: Arc<Plan>,
    generation: u64,
    filter: Filter,
}

/// Answers, or says why not.
pub(super) fn tell(
    handle: &Handle,
    parameters: &[(String, String)],
    readers: &Arc<Semaphore>,
) -> Result<Response, Problem> {
    let snapshot = handle.snapshot();
    let plan = Arc::clone(&snapshot.index.plan);
    let filter = Filter::from_parameters(parameters, &plan)?;
    let Ok(place) = Arc::clone(readers).try_acquire_owned() else {
        let detail = format!("{MAX_READERS} readers read the configuration already");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail));
    };
    let document = Document { plan, generation: snapshot.generation, filter };
    let body = Body::from_stream(unfold(Reader::start(document, place), |mut reader| async {
        let piece = reader.next().await?;
        Some((piece, reader))
    }));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

impl Filter {
    fn from_parameters(parameters: &[(String, String)], plan: &Plan) -> Result<Self, Problem> {
        let mut filter = Self::default();
        for (name, value) in parameters {
            let unknown = |reason, what| {
                Problem::new(StatusCode::NOT_FOUND, reason, format!("the configuration has no {what} {value:?}"))
            };
            match name.as_str() {
                "asset" if value == "*" => filter.asset = Some(PoolAsset::Any),
                "asset" => {
                    let found = plan.assets.iter().position(|asset| asset.name.eq_ignore_ascii_case(value));
                    let id =
                        found.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| unknown("unknown_asset", "asset"))?;
                    filter.asset = Some(PoolAsset::Named(AssetId(id)));
                }
                "region" => {
                    let found = plan.regions.iter().position(|region| region.name.eq_ignore_ascii_case(value));
                    let id = found.and_then(|at| u16::try_from(at).ok());
                    filter.region = Some(RegionId(id.ok_or_else(|| unknown("unknown_region", "region"))?));
                }
                other => {
                    let detail = format!("no parameter {other}: there are asset and region, for pools");
                    return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail));
                }
            }
        }
        Ok(filter)
    }

    fn takes_asset(self, asset: PoolAsset) -> bool {
        self.asset.is_none_or(|wanted| wanted == asset)
    }

    fn takes(self, pool: &Pool) -> bool {
        self.takes_asset(pool.asset) && self.region.is_none_or(|wanted| wanted == pool.region)
    }
}

/// Whoever reads it. `None` in the channel: that was all.
struct Reader {
    pieces: Arc<Mutex<Receiver<Option<Bytes>>>>,
    is_over: bool,
    /// Ends with this.
    _watchdog: JoinSet<()>,
}

impl Reader {
    fn start(document: Document, place: OwnedSemaphorePermit) -> Self {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let pieces = Arc::new(Mutex::new(receiver));
        let mut watchdog = JoinSet::new();
        let watched = Arc::clone(&pieces);
        // Not in `next`, which nobody calls while the client's socket is full.
        watchdog.spawn(async move {
            tokio::time::sleep(DEADLINE).await;
            watched.lock().unwrap_or_else(PoisonError::into_inner).close();
        });
        tokio::task::spawn_blocking(move || {
            let mut writer = Writer { buffer: Vec::with_capacity(PIECE), sender };
            // An error is a reader that has gone, or was too slow, and has seen that the answer is not whole.
            if serde_json::to_writer(&mut writer, &document).is_ok() && writer.flush().is_ok() {
                let _ = writer.sender.blocking_send(None);
            }
            drop(place);
        });
        Self { pieces, is_over: false, _watchdog: watchdog }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.is_over {
            return None;
        }
        let receive =
            |cx: &mut std::task::Context<'_>| self.pieces.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(cx);
        match std::future::poll_fn(receive).await {
            Some(Some(piece)) => Some(Ok(piece)),
            Some(None) => None,
            None => {
                self.is_over = true;
                Some(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// Collects pieces, and waits where the reader is behind.
struct Writer {
    buffer: Vec<u8>,
    sender: Sender<Option<Bytes>>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > PIECE {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Some(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plan = &*self.plan;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        map.serialize_entry("hash", &plan.hash)?;
        map.serialize_entry("generation", &self.generation)?;
        map.serialize_entry("files", &plan.files.iter().map(|file| path(file)).collect::<Vec<_>>())?;
        map.serialize_entry("config", &Config { plan, filter: self.filter })?;
        map.end()
    }
}

/// In the order of the reference.
struct Config<'p> {
    plan: &'p Plan,
    filter: Filter,
}

impl Serialize for Config<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Taken apart, so that a section that is added later can't be forgotten here.
        let Plan {
            hash: _,
            files: _,
            server,
            listeners,
            admin,
            regions,
            assets: _,
            pools: _,
            routes,
            limits,
            log,
            max_metric_pools,
        } = self.plan;
        let region = |id: RegionId| regions.get(id.index()).map_or("", |region| &*region.name);
        let mut map = serializer.serialize_map(None)?;
        let about_server = json!({
            "workers": server.workers.map_or_else(|| "auto".into(), Value::from),
            "drain_delay": duration(server.drain_delay),
            "drain_timeout": duration(server.drain_timeout),
            "default_region": region(server.default_region),
        });
        map.serialize_entry("server", &about_server)?;
        map.serialize_entry("listeners", &listeners.iter().map(listener).collect::<Value>())?;
        map.serialize_entry("admin", &admin.as_ref().map_or(Value::Bool(false), self::admin))?;
        let about_regions: serde_json::Map<_, _> = regions
            .iter()
            .map(|one| {
                let clients: Value = one.clients.iter().map(ToString::to_string).collect();
                let fallback: Value = one.fallback.iter().map(|id| region(*id)).collect();
                (one.name.to_string(), json!({ "clients": clients, "fallback": fallback }))
            })
            .collect();
        map.serialize_entry("regions", &about_regions)?;
        map.serialize_entry("assets", &Assets(self))?;
        map.serialize_entry("routes", &Routes(routes))?;
        map.serialize_entry("pools", &Pools(self))?;
        map.serialize_entry("limits", &self::limits(limits))?;
        map.serialize_entry("log", &self::log(log))?;
        map.serialize_entry("metrics", &json!({ "max_pools": max_metric_pools }))?;
        map.end()
    }
}

struct Assets<'c>(&'c Config<'c>);

impl Serialize for Assets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Config { plan, filter } = *self.0;
        let wanted = plan.assets.iter().zip(0..).filter(|(_, id)| filter.takes_asset(PoolAsset::Named(AssetId(*id))));
        serializer.collect_map(wanted.map(|(asset, _)| (&*asset.name, json!({ "aliases": asset.aliases }))))
    }
}

struct Routes<'p>(&'p [crate::model::Route]);

impl Serialize for Routes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(routes::route))
    }
}

struct Pools<'c>(&'c Config<'c>);

impl Serialize for Pools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Config { plan, filter } = *self.0;
        // An asset's pools are neighbours.
        let groups = plan.pools.chunk_by(|one, other| one.asset == other.asset);
        let wanted = groups.filter(|group| group.iter().any(|pool| filter.takes(pool)));
        serializer.collect_map(wanted.map(|pools| (asset_of(plan, pools), InRegions { plan, filter, pools })))
    }
}

fn asset_of<'p>(plan: &'p Plan, pools: &[Pool]) -> &'p str {
    match pools.first().map(|pool| pool.asset) {
        Some(PoolAsset::Named(id)) => plan.assets.get(id.index()).map_or("", |asset| &*asset.name),
        Some(PoolAsset::Any) | None => "*",
    }
}

/// The pools of one asset.
struct InRegions<'p> {
    plan: &'p Plan,
    filter: Filter,
    pools: &'p [Pool],
}

impl Serialize for InRegions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wanted = self.pools.iter().filter(|pool| self.filter.takes(pool));
        serializer.collect_map(wanted.map(|pool| {
            let region = self.plan.regions.get(pool.region.index()).map_or("", |region| &*region.name);
            (region, pools::pool(pool))
        }))
    }
}

fn listener(listener: &Listener) -> Value {
    let Listener { name, bind, protocols, proxy_protocol, trusted_proxies, max_connections, tls, redirect } = listener;
    let spoken = [(protocols.h1, "h1"), (protocols.h2, "h2")];
    let mut table = json!({
        "name": &**name,
        "bind": bind.to_string(),
        "protocols": spoken.into_iter().filter_map(|(is_on, word)| is_on.then_some(word)).collect::<Vec<_>>(),
        "proxy_protocol": proxy_protocol,
        "trusted_proxies": trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    if let Some(most) = max_connections {
        table["max_connections"] = (*most).into();
    }
    if let Some(tls) = tls {
        table["tls"] = self::tls(tls);
    }
    if let Some(crate::model::Action::Redirect(to)) = redirect {
        table["redirect"] = routes::redirect(to);
    }
    table
}

/// Where certificates and keys came from, and nothing of what is in them.
fn tls(tls: &Tls) -> Value {
    let certificates: Value = tls
        .certificates
        .iter()
        .map(|certificate| {
            let files = &certificate.files;
            let mut table = json!({ "cert": path(&files.cert), "key": path(&files.key) });
            if let Some(ocsp) = &files.ocsp {
                table["ocsp"] = path(ocsp);
            }
            table
        })
        .collect();
    let mut table = json!({ "min_version": tls.min_version.as_str(), "certificates": certificates });
    if let Some(auth) = &tls.client_auth {
        table["client_ca"] = path(&auth.file);
        table["client_auth"] = if auth.is_required { "required" } else { "optional" }.into();
    }
    table
}

fn admin(admin: &Admin) -> Value {
    let Admin { bind, token: _, token_file, tls, protect_metrics, state_file } = admin;
    let mut table = json!({
        "bind": bind.to_string(),
        "protect_metrics": protect_metrics,
        "state_file": state_file.as_deref().map_or_else(|| "off".into(), path),
    });
    if let Some(file) = token_file {
        table["token_file"] = path(file);
    }
    if let Some(tls) = tls {
        table["tls"] = self::tls(tls);
    }
    table
}

fn limits(limits: &Limits) -> Value {
    let Limits {
        max_connections,
        max_connections_per_client,
        max_header_bytes,
        max_headers,
        max_target_bytes,
        max_body_bytes,
        max_buffered_bytes,
        header_timeout,
        idle_timeout,
        min_body_rate,
        h2_max_streams,
    } = *limits;
    json!({
        "max_connections": max_connections,
        "max_connections_per_client": max_connections_per_client,
        "max_header_bytes": size(max_header_bytes.into()),
        "max_headers": max_headers,
        "max_target_bytes": size(max_target_bytes.into()),
        "max_body_bytes": size(max_body_bytes),
        "max_buffered_bytes": size(max_buffered_bytes),
        "header_timeout": duration(header_timeout),
        "idle_timeout": duration(idle_timeout),
        "min_body_rate": rate(min_body_rate),
        "h2_max_streams": h2_max_streams,
    })
}

fn log(log: &Log) -> Value {
    let Log { level, format, access } = log;
    json!({
        "level": match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        },
        "format": match format {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
        "access": match access {
            LogSink::Off => "off".into(),
            LogSink::Stdout => "stdout".into(),
            LogSink::File(file) => path(file),
        },
    })
}
