//! Certificates in use: read anew when their files change, and complained about when their time runs out.
//!
//! Whoever renews certificates (certbot, cert-manager, a cron job) replaces files and need not tell anybody. So every two
//! seconds it is seen whether a file is still the one that was read: by device, inode, size, and the times of its content
//! and of its inode, behind all symbolic links, since that is how most of them replace files. inotify would need a watch
//! on every directory on the way, and says nothing on network file systems. What can't be used, such as a new certificate
//! whose key has not been written yet, changes nothing and is logged once.
//!
//! All of it happens on the background's thread; new connections get what is new, those that are open notice nothing.

use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

use super::background::Background;
use super::listeners::Open;
use crate::config::{reread_authorities, reread_certificate};
use crate::model::{Certificate, Tls};
use crate::telemetry::{CertificateEnd, Metrics};
use crate::tls::{Front, Warned};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Which content a file has, as far as can be seen without reading it. `None`: there is none.
type Identity = Option<[i128; 6]>;

/// See the module.
pub(super) struct Certificates {
    metrics: Arc<Metrics>,
    watched: Vec<Watched>,
    /// A look under way.
    looking: Option<Pin<Box<dyn Future<Output = Vec<Watched>>>>>,
    /// When to look again.
    next: Instant,
}

/// A listener with TLS.
#[derive(Clone)]
struct Watched {
    listener: Arc<str>,
    front: Arc<Front>,
    tls: Tls,
    /// Of each certificate: what was read, and what has been said of its end. The first look reads all of them, since
    /// a file may have changed between being read for the configuration and now.
    seen: Vec<(Option<Vec<Identity>>, Warned)>,
    seen_authorities: Option<Identity>,
}

impl Certificates {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, watched: Vec::new(), looking: None, next: Instant::now() }
    }

    /// A configuration is in force: from now on these listeners.
    pub(super) fn follow(&mut self, open: &[Open]) {
        let now = now();
        let watched = |open: &Open| {
            let tls = open.listener.tls.clone()?;
            // The configuration's own warnings have told what there is to tell by now.
            let seen = tls.certificates.iter().map(|one| (None, Warned::at(now, one.not_after))).collect();
            let (listener, front) = (Arc::clone(&open.listener.name), Arc::clone(open.tls.as_ref()?));
            Some(Watched { listener, front, tls, seen, seen_authorities: None })
        };
        self.watched = open.iter().filter_map(watched).collect();
        self.looking = None;
        self.next = Instant::now();
        self.show();
    }

    /// Looks when it is time to, and comes back when something has been seen. Never, where no listener has TLS.
    pub(super) async fn looked(&mut self, background: &Background) {
        if self.watched.is_empty() {
            return std::future::pending().await;
        }
        if self.looking.is_none() {
            sleep_until(self.next).await;
            let mut watched = self.watched.clone();
            self.looking = Some(Box::pin(background.run(move || {
                watched.iter_mut().for_each(|one| one.look(now()));
                watched
            })));
        }
        if let Some(looking) = &mut self.looking {
            self.watched = looking.as_mut().await;
            self.looking = None;
            self.next = Instant::now() + INTERVAL;
            self.show();
        }
    }

    fn show(&self) {
        let of = |one: &Watched| {
            let end = |it: &Arc<Certificate>| CertificateEnd {
                listener: Arc::clone(&one.listener),
                certificate: Arc::clone(&it.label),
                not_after: it.not_after,
            };
            one.tls.certificates.iter().map(end).collect::<Vec<_>>()
        };
        self.metrics.certificates(self.watched.iter().flat_map(of).collect());
    }
}

impl Watched {
    fn look(&mut self, now: i64) {
        let mut tls = self.tls.clone();
        let mut renewed = Vec::new();
        for (certificate, (seen, warned)) in tls.certificates.iter_mut().zip(&mut self.seen) {
            // Before reading: what changes meanwhile is seen next time.
            let files: Vec<_> = certificate.files.all().map(|path| identity(path)).collect();
            if seen.as_ref() != Some(&files) {
                *seen = Some(files);
                match reread_certificate(certificate) {
                    Ok(new) if new == **certificate => {}
                    Ok(new) => {
                        *certificate = Arc::new(new);
                        *warned = Warned::No;
                        renewed.push(Arc::clone(&certificate.label));
                    }
                    Err(error) => failed(&self.listener, &error),
                }
            }
        }
        if let Some(auth) = &mut tls.client_auth {
            let file = identity(&auth.file);
            if self.seen_authorities.replace(file) != Some(file) {
                match reread_authorities(auth) {
                    Ok(new) if new == *auth => {}
                    Ok(new) => {
                        renewed.push(auth.file.display().to_string().into());
                        *auth = new;
                    }
                    Err(error) => failed(&self.listener, &error),
                }
            }
        }
        if !renewed.is_empty() {
            match self.front.renew(&tls) {
                Ok(()) => {
                    self.tls = tls;
                    for file in renewed {
                        tracing::info!(listener = &*self.listener, certificate = &*file, "certificate read anew");
                    }
                }
                Err(error) => failed(&self.listener, &error.to_string()),
            }
        }
        for (certificate, (_, warned)) in self.tls.certificates.iter().zip(&mut self.seen) {
            let due = Warned::at(now, certificate.not_after);
            if due > *warned {
                warn(&self.listener, certificate, now);
            }
            *warned = due;
        }
    }
}

fn failed(listener: &str, error: &str) {
    tracing::error!(listener, error, "a certificate that changed can't be used, the old one goes on");
}

fn warn(listener: &str, certificate: &Certificate, now: i64) {
    let days = (certificate.not_after - now).div_euclid(24 * 60 * 60);
    let certificate = &*certificate.label;
    if days < 0 {
        tracing::error!(listener, certificate, "the certificate has expired");
    } else {
        tracing::warn!(listener, certificate, days, "the certificate expires soon");
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

fn identity(path: &Path) -> Identity {
    let file = std::fs::metadata(path).ok()?;
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Some([
        file.dev().into(),
        file.ino().into(),
        file.size().into(),
        file.mode().into(),
        nanos(file.mtime(), file.mtime_nsec()),
        nanos(file.ctime(), file.ctime_nsec()),
    ])
}
