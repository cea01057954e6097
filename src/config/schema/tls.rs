//! TLS as the schema shows it: of listeners, and to backends.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTls {
    /// PEM file of the authorities that clients' certificates must be signed by. Default: clients are not asked for one.
    client_ca: Option<String>,
    /// Whether a client without a certificate is turned away. Default, with `client_ca`: "required".
    client_auth: Option<ClientAuth>,
    /// The oldest version of TLS that is spoken. Default: "1.2".
    min_version: Option<Version>,
    /// At least one. A client that names none of their hosts gets the first.
    certificates: Vec<Certificate>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ClientAuth {
    Required,
    Optional,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum Version {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    /// PEM file: the certificate, then those that lead to an authority.
    cert: String,
    /// PEM file of its private key.
    key: String,
    /// DER file of an OCSP response that is sent with it. Default: none.
    ocsp: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendTls {
    /// PEM file of the authorities that backends' certificates must be signed by. Default: the system's.
    ca: Option<String>,
    /// The host name or IP address that their certificates must be for. Default: each backend's own.
    server_name: Option<String>,
    /// PEM file: the certificate that is shown to who asks for one, then those that lead to an authority.
    cert: Option<String>,
    /// PEM file of its private key.
    key: Option<String>,
    /// Whether any certificate is believed. Default: false.
    insecure: Option<bool>,
}
