//! The admin address inside TLS: `--admin https://HOST:PORT`, whom to believe, and a certificate to show.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Of a daemon whose admin address speaks TLS.
#[derive(Debug, Args)]
pub(super) struct AdminTls {
    /// The authorities of an https:// admin address [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A certificate to show to it
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl AdminTls {
    /// Connects to `HOST:PORT`.
    pub(super) async fn connect(&self, address: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no name of a server"))?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let stream = TcpStream::connect(address).await?;
        Ok(connector.connect(name, stream).await?)
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(file) => certificates(file)?.into_iter().try_for_each(|one| roots.add(one))?,
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        Ok(match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                // Without what the parser quotes of it.
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|_| anyhow!("no key in {}", key.display()))?;
                builder.with_client_auth_cert(certificates(cert)?, secret)?
            }
            _ => builder.with_no_client_auth(),
        })
    }
}

fn certificates(file: &PathBuf) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|_| anyhow!("no certificates in {}", file.display()))
}
