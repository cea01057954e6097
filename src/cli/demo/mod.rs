//! `shardgate demo`: serves at once, with sample backends of its own.
//!
//! What it serves is data: `config/demo.toml`, a configuration like any other, in which the addresses of backends are
//! replaced by those of sample backends that are started here, and `config/demo-prices.json`, a made-up history.

mod backends;
mod forecast;
mod token;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use backends::Sample;
use token::Token;

const CONFIG: &str = include_str!("../../../config/demo.toml");
const PRICES: &str = include_str!("../../../config/demo-prices.json");

/// A character that no configuration has.
const MARK: char = '\u{1}';

/// A demo whose backends run.
pub(super) struct Demo {
    /// The configuration, with the addresses of the running backends.
    pub(super) config: String,
    /// What to type, one to a line, once the proxy listens.
    pub(super) lines: Lines,
    /// For as long as it runs. `None`: there is no place for one, or no need.
    pub(super) token: Option<Token>,
}

pub(super) struct Lines {
    control: SocketAddr,
    /// Asset and region of the pool that is killed.
    first: (String, String),
    /// Another pool, in another region if there is one.
    other: (String, String),
    backends: usize,
    /// That `drain` needs, as a shell takes it. `None`: it can't be tried.
    credentials: Option<String>,
}

#[derive(Deserialize)]
struct Prices {
    note: String,
    step: String,
    prices: BTreeMap<String, Vec<f64>>,
}

/// The part of a configuration that says which sample backends are wanted.
#[derive(Deserialize)]
struct Wanted {
    listeners: Vec<Bound>,
    admin: Bound,
    server: Server,
    pools: BTreeMap<String, BTreeMap<String, Members>>,
}

#[derive(Deserialize)]
struct Bound {
    bind: String,
}

#[derive(Deserialize)]
struct Server {
    default_region: String,
}

#[derive(Deserialize)]
struct Members {
    primaries: Vec<String>,
    replicas: Vec<String>,
}

/// Starts the backends. `listen` and `admin` take the place of the addresses in the file.
pub(super) fn start(listen: &str, admin: &str) -> anyhow::Result<Demo> {
    let wanted: Wanted = toml::from_str(CONFIG).context("config/demo.toml")?;
    let prices: Prices = serde_json::from_str(PRICES).context("config/demo-prices.json")?;
    let (note, step) = (Arc::from(prices.note), Arc::from(prices.step));
    let mut placeholders = Vec::new();
    let mut samples = Vec::new();
    for (asset, regions) in &wanted.pools {
        let history = prices.prices.get(asset).with_context(|| format!("no sample prices for {asset}"))?;
        let history: Arc<[f64]> = history.as_slice().into();
        for (region, members) in regions {
            for (role, addresses) in [("primary", &members.primaries), ("replica", &members.replicas)] {
                for address in addresses {
                    placeholders.push(address.clone());
                    samples.push(Sample {
                        asset: asset.clone(),
                        region: region.clone(),
                        role,
                        prices: history.clone(),
                        note: Arc::clone(&note),
                        step: Arc::clone(&step),
                    });
                }
            }
        }
    }
    let pools: Vec<_> = samples.iter().map(|s| (s.asset.clone(), s.region.clone())).collect();
    let (control, addresses) = backends::start(samples).context("can't start the sample backends")?;

    let mut config = CONFIG.to_owned();
    let addresses = addresses.iter().map(ToString::to_string);
    let fixed = wanted.listeners.iter().map(|l| (l.bind.clone(), listen)).chain([(wanted.admin.bind, admin)]);
    let replaced = placeholders.into_iter().zip(addresses).chain(fixed.map(|(from, to)| (from, to.to_owned())));
    // An address just put in must not be taken for one that is still to be replaced: it is marked until the end.
    for (from, to) in replaced {
        config = config.replacen(&format!("\"{from}\""), &format!("\"{MARK}{to}\""), 1);
    }
    config.retain(|c| c != MARK);
    // Who may open a Unix socket needs none. Where nothing can be written the demo does without.
    let token = if admin.starts_with("unix:") { None } else { Token::new().ok() };
    let token_file = token.as_ref().and_then(Token::path);
    if let Some(path) = token_file {
        let line = format!("[admin]\ntoken_file = {}\n", Value::from(path));
        config = config.replacen("[admin]\n", &line, 1);
    }
    let credentials = match token_file {
        Some(path) => Some(format!(" --token-file {}", quoted(path))),
        None => admin.starts_with("unix:").then(String::new),
    };

    let home = pools.iter().find(|p| p.1 == wanted.server.default_region);
    let first = home.cloned().context("config/demo.toml has no pool in its default region")?;
    let other = pools.iter().find(|p| p.0 != first.0 && p.1 != first.1).unwrap_or(&first).clone();
    Ok(Demo { config, lines: Lines { control, first, other, backends: pools.len(), credentials }, token })
}

impl Lines {
    /// What to try, for people, once it is known where the proxy listens.
    ///
    /// `program`: how this program was called, since it need not be in the PATH.
    pub(super) fn invitation(&self, program: &str, proxy: &str, admin: &str) -> String {
        let Self { control, first: (asset, region), other: (other_asset, other_region), backends, credentials } = self;
        let (program, at) = (quoted(program), quoted(admin));
        let ((socket, proxy), (admin_socket, admin)) = (reached(proxy), reached(admin));
        let drain = credentials.as_ref().map_or_else(String::new, |credentials| {
            format!(
                "A whole region goes out for maintenance; the same with `ready` instead of `drain` brings it back:\n\
                 \n  {program} drain {region} --admin {at}{credentials}\n\
                 \n"
            )
        });
        format!(
            "shardgate demo: {socket}{proxy}, admin {admin_socket}{admin}, {backends} sample backends (their data is made up)\n\
             \n\
             Try, in another terminal:\n\
             \n  curl -s {socket}{proxy}/v1/predict/{asset}\n\
             \n  curl -s -H 'x-region: {other_region}' {socket}'{proxy}/v1/predict/{other_asset}?horizon=7'\n\
             \n  curl -s -X POST http://{control}/die/{asset}/{region}   # kills every backend of {asset} in {region}\n\
             \n\
             Then ask for {asset} again: another region answers. `/revive/{asset}/{region}` brings them back.\n\
             {drain}\
             Metrics: {admin_socket}{admin}/metrics. State: {program} status --admin {at}. Ctrl-C ends it.\n"
        )
    }
}

/// How curl reaches an address: an option, with a space behind it, and the beginning of the URL.
fn reached(address: &str) -> (String, String) {
    match address.strip_prefix("unix:") {
        Some(path) => (format!("--unix-socket {} ", quoted(path)), "http://localhost".to_owned()),
        None => (String::new(), format!("http://{address}")),
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_file_becomes_one_that_runs() {
        let demo = start("127.0.0.1:0", "127.0.0.1:0").unwrap();
        let before: Wanted = toml::from_str(CONFIG).unwrap();
        let after: Wanted = toml::from_str(&demo.config).unwrap();
        assert_eq!(after.listeners[0].bind, "127.0.0.1:0");
        assert_eq!(after.admin.bind, "127.0.0.1:0");
        let all = |w: &Wanted| -> Vec<String> {
            let pools = w.pools.values().flat_map(BTreeMap::values);
            pools.flat_map(|m| m.primaries.iter().chain(&m.replicas)).cloned().collect()
        };
        assert_eq!(all(&after).len(), all(&before).len());
        let distinct: std::collections::BTreeSet<_> = all(&after).into_iter().collect();
        assert_eq!(distinct.len(), all(&before).len());
        for address in distinct {
            std::net::TcpStream::connect(&address).unwrap();
        }
        assert!(demo.lines.invitation("./sg", "h:1", "h:2").contains("curl -s http://h:1/v1/predict/"));
    }
}
