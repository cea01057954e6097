//! What a listener begins each handshake with. Made by the control plane, shared by all workers, exchanged whole.
//!
//! A session ticket lets a client come back without a certificate, so a ticket is worth as much as the authentication
//! that it was issued after. The keys of tickets therefore belong to one listener and to one way of asking for
//! certificates: a ticket of another listener, or from before `client_ca` changed, is no ticket here, and its client goes
//! through a whole handshake (what CVE-2025-23419 was about in nginx). That the name asked for is still the same is checked
//! by rustls. The keys outlive reloads and new certificates, and are renewed by rustls every 6 hours; a ticket is good for
//! as long as its key is known, 12 hours at most.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig, WebPkiClientVerifier};

use super::resolver::Resolver;
use crate::model::{ClientAuth, Protocols, Tls, TlsVersion};

/// Why something that has been checked can't be used all the same.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub struct TlsError(String);

/// See the module.
#[derive(Debug)]
pub struct Front {
    config: ArcSwap<ServerConfig>,
    protocols: Protocols,
    /// Of the control plane; workers only see `config`.
    tickets: Mutex<Tickets>,
}

/// Keys of tickets, and what they are bound to.
#[derive(Debug, Clone)]
struct Tickets {
    ticketer: Arc<dyn ProducesTickets>,
    client_auth: Option<ClientAuth>,
}

impl Front {
    /// For a listener; `before` is what it had before a reload, whose tickets stay good if nothing has changed about whom
    /// they were issued to.
    ///
    /// # Errors
    /// What rustls says of material that the configuration's checks let through.
    pub fn new(tls: &Tls, protocols: Protocols, before: Option<&Self>) -> Result<Self, TlsError> {
        let tickets = tickets(tls, before.map(Self::tickets))?;
        let config = ArcSwap::from_pointee(config(tls, protocols, &tickets)?);
        Ok(Self { config, protocols, tickets: Mutex::new(tickets) })
    }

    /// Goes over to other certificates or authorities, for the connections that come from now on.
    ///
    /// # Errors
    /// As [`Front::new`]; then nothing has changed.
    pub fn renew(&self, tls: &Tls) -> Result<(), TlsError> {
        let tickets = tickets(tls, Some(self.tickets()))?;
        self.config.store(Arc::new(config(tls, self.protocols, &tickets)?));
        *self.tickets.lock().unwrap_or_else(PoisonError::into_inner) = tickets;
        Ok(())
    }

    /// For one handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    fn tickets(&self) -> Tickets {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn error(error: impl std::fmt::Display) -> TlsError {
    TlsError(error.to_string())
}

fn tickets(tls: &Tls, before: Option<Tickets>) -> Result<Tickets, TlsError> {
    let client_auth = tls.client_auth.clone();
    match before.filter(|tickets| tickets.client_auth == client_auth) {
        Some(tickets) => Ok(tickets),
        None => Ok(Tickets { ticketer: ring::Ticketer::new().map_err(error)?, client_auth }),
    }
}

fn config(tls: &Tls, protocols: Protocols, tickets: &Tickets) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match tls.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).map_err(error)?;
    let builder = match &tls.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder.with_client_cert_verifier(verifier(auth, provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver::new(&tls.certificates).map_err(error)?));
    config.alpn_protocols = alpn(protocols);
    config.ignore_client_order = true;
    config.ticketer = Arc::clone(&tickets.ticketer);
    // Tickets need no memory here, and are good at every worker.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn verifier(
    auth: &ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &auth.authorities {
        roots.add(authority.clone()).map_err(error)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if auth.is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(error)
}

/// By ALPN (RFC 7301), in the order in which we like them. A client that knows no ALPN speaks HTTP/1.1.
fn alpn(protocols: Protocols) -> Vec<Vec<u8>> {
    let h2 = protocols.h2.then(|| b"h2".to_vec());
    let h1 = protocols.h1.then(|| b"http/1.1".to_vec());
    h2.into_iter().chain(h1).collect()
}

#[cfg(test)]
mod tests {
    use super::super::resolver::tests::certificate;
    use super::*;

    fn tls(client_auth: Option<ClientAuth>) -> Tls {
        Tls { certificates: vec![certificate(&["a.test"])], client_auth, min_version: TlsVersion::V12 }
    }

    fn auth(is_required: bool) -> ClientAuth {
        let authorities = vec![certificate(&["ca.test"]).chain[0].clone()];
        ClientAuth { file: "ca.pem".into(), authorities, is_required }
    }

    fn is_good_at(ticket: &[u8], front: &Front) -> bool {
        front.config().ticketer.decrypt(ticket).is_some()
    }

    #[test]
    fn tickets_outlive_new_certificates_and_reloads() {
        let front = Front::new(&tls(None), Protocols::default(), None).unwrap();
        let ticket = front.config().ticketer.encrypt(b"x").unwrap();
        front.renew(&tls(None)).unwrap();
        assert!(is_good_at(&ticket, &front));
        assert!(is_good_at(&ticket, &Front::new(&tls(None), Protocols::default(), Some(&front)).unwrap()));
        assert!(!is_good_at(&ticket, &Front::new(&tls(None), Protocols::default(), None).unwrap()), "another listener");
    }

    #[test]
    fn tickets_are_bound_to_how_clients_are_asked_for_certificates() {
        let optional = auth(false);
        let front = Front::new(&tls(Some(optional.clone())), Protocols::default(), None).unwrap();
        let ticket = front.config().ticketer.encrypt(b"x").unwrap();
        front.renew(&tls(Some(optional.clone()))).unwrap();
        assert!(is_good_at(&ticket, &front));
        let other = |auth| Front::new(&tls(auth), Protocols::default(), Some(&front)).unwrap();
        assert!(!is_good_at(&ticket, &other(None)));
        assert!(!is_good_at(&ticket, &other(Some(ClientAuth { is_required: true, ..optional }))));
        assert!(!is_good_at(&ticket, &other(Some(auth(false)))), "another authority");
        front.renew(&tls(Some(auth(false)))).unwrap();
        assert!(!is_good_at(&ticket, &front));
    }

    #[test]
    fn what_is_spoken_is_offered_in_our_order() {
        assert_eq!(alpn(Protocols { h1: true, h2: true }), [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(alpn(Protocols { h1: true, h2: false }), [b"http/1.1".to_vec()]);
    }
}
