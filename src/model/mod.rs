//! What the operator asks for, as types: a [`Plan`] and its parts.
//!
//! A Plan is made once, by `config`, from text that has passed every check. Whoever holds one never checks again: a
//! region it names exists, an address parses, a path template is well formed. Nothing here does input or output, and
//! nothing here knows the time; that is why every other room may import it.

mod address;
mod backend_tls;
mod key;
mod load_report;
mod names;
mod operator;
mod outlier;
mod plan;
mod pool;
mod proxy_protocol;
mod reason;
mod route;
mod settings;
mod tls;

pub use address::{Address, Bind};
pub use backend_tls::{BackendTls, BackendTlsFiles, FromFiles, TlsTo};
pub use key::{AssetId, Key, PoolId, RegionId};
pub use load_report::{Announcement, LoadReport};
pub use names::Names;
pub use operator::{Operator, Target};
pub use outlier::{Detector, Outlier, SlowStart};
pub use plan::{
    Admin, Asset, Limits, Listener, Log, LogFormat, LogLevel, LogSink, Plan, Protocols, Region, Secret, Server,
};
pub use pool::{Member, Pool, PoolAsset, Role};
pub use proxy_protocol::ProxyProtocol;
pub use reason::{Outcome, Reason};
pub use route::{Action, HeaderEdits, HostPattern, Rewrite, Route, Source, SourceKind};
pub use settings::{
    AgentCheck, Failover, HashSource, HealthCheck, HostHeader, HttpCheck, Limit, Policy, PoolSettings, Protocol,
    QueueOrder, Retry, RetryOn, RetryOverride, StatusRange, Timeouts, TimeoutsOverride, Via,
};
pub use tls::{Certificate, CertificateFiles, ClientAuth, Tls, TlsVersion};
