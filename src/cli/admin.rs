//! Commands that speak to the running daemon: HTTP/1.1 to its admin address, over TCP or a Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::fault::Fault;
use super::{DEFAULT_ADMIN, Daemon, print, print_json, status};

/// A reload waits for the first round of health checks, which is bounded by the longest check timeout.
const DEADLINE: Duration = Duration::from_secs(120);

/// `shardgate reload`
pub(super) fn reload(daemon: &Daemon) -> Result<(), Fault> {
    let (status, body) = request(daemon, Method::POST, "/api/v1/reload", None)?;
    let answer: Option<Value> = serde_json::from_slice(&body).ok();
    if daemon.json {
        print_json(&body)?;
    }
    match status {
        status if status.is_success() => {
            if !daemon.json {
                print(answer.as_ref().map_or_else(|| "reloaded\n".into(), told))?;
            }
            Ok(())
        }
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
            let text = answer.as_ref().and_then(|a| a["errors"].as_str().or(a["detail"].as_str())).map(str::to_owned);
            Err(Fault::Wrong(text.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned())))
        }
        _ => Err(refused(status, &body)),
    }
}

/// `shardgate status`
pub(super) fn status(daemon: &Daemon) -> Result<(), Fault> {
    let (code, body) = request(daemon, Method::GET, "/api/v1/status", None)?;
    if code != StatusCode::OK {
        return Err(refused(code, &body));
    }
    if daemon.json {
        return print_json(&body);
    }
    print(status::table(&serde_json::from_slice(&body).context("the daemon's answer is not what this version reads")?))
}

/// `reloaded: 6 pools: 1 added, 0 changed, 0 removed`.
fn told(answer: &Value) -> String {
    match answer["changes"].as_str() {
        Some(changes) => format!("reloaded: {changes}\n"),
        None => "reloaded\n".into(),
    }
}

/// An answer that no command knows what to make of.
pub(super) fn refused(status: StatusCode, body: &[u8]) -> Fault {
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            " (--token-file gives a token, --cert and --key a certificate)"
        }
        StatusCode::NOT_FOUND => " (is this the admin address?)",
        _ => "",
    };
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str()).map(str::to_owned);
    let text = detail.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    Fault::Other(anyhow!("the daemon answered {status}: {text}{hint}"))
}

enum Target {
    Tcp(String),
    Tls(String),
    Unix(PathBuf),
}

/// Asks the daemon, with JSON or without.
pub(super) fn request(
    daemon: &Daemon,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Bytes), Fault> {
    let target = match daemon.admin.strip_prefix("unix:") {
        Some(path) => Target::Unix(path.into()),
        None => {
            let secure = daemon.admin.strip_prefix("https://");
            let address = secure.unwrap_or(&daemon.admin).trim_start_matches("http://").trim_end_matches('/');
            if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                return Err(Fault::Usage(format!(
                    "--admin {address:?} is neither HOST:PORT, https://HOST:PORT nor unix:PATH"
                )));
            }
            if secure.is_some() { Target::Tls(address.to_owned()) } else { Target::Tcp(address.to_owned()) }
        }
    };
    let host = match &target {
        Target::Tcp(address) | Target::Tls(address) => address.as_str(),
        Target::Unix(_) => "localhost",
    };
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    if let Some(file) = &daemon.token_file {
        let token = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).context("the token")?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body)).context("the admin address")?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(DEADLINE, async {
            match target {
                Target::Tcp(address) => exchange(tokio::net::TcpStream::connect(address).await?, request).await,
                Target::Tls(address) => exchange(daemon.tls.connect(&address).await?, request).await,
                Target::Unix(path) => exchange(tokio::net::UnixStream::connect(path).await?, request).await,
            }
        })
        .await
        .map_err(|_| anyhow!("no answer within {DEADLINE:?}"))?
    });
    Ok(answer.with_context(|| {
        let hint =
            if daemon.admin == DEFAULT_ADMIN { " (is shardgate running? `--admin` names another one)" } else { "" };
        format!("no answer from the admin address {}{hint}", daemon.admin)
    })?)
}

async fn exchange<S>(socket: S, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        anyhow::Ok((head.status, body.collect().await?.to_bytes()))
    };
    // The connection moves the bytes for the answer; polled beside it, they need no task.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
