//! Certificates in use: read anew when their files change, and complained about when their time runs out. Those of
//! listeners and their clients' authorities are exchanged where they are; those for backends make a new Plan
//! (`backend_files`), which whoever looks here has to put in force.
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

use super::backend_files::{BackendFiles, Renewed};
use super::background::Background;
use super::listeners::Open;
use crate::config::{reread_authorities, reread_certificate};
use crate::model::{Certificate, Plan, Tls};
use crate::telemetry::{CertificateEnd, Metrics};
use crate::tls::{Front, Warned};

/// The admin address among listeners, none of which can be called so.
const ADMIN: &str = "[admin]";

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Which content a file has, as far as can be seen without reading it. `None`: there is none.
pub(super) type Identity = Option<[i128; 6]>;

/// See the module.
pub(super) struct Certificates {
    metrics: Arc<Metrics>,
    watched: Vec<Watched>,
    backends: BackendFiles,
    /// A look under way.
    looking: Option<Pin<Box<dyn Future<Output = Look>>>>,
    /// When to look again.
    next: Instant,
}

/// What was seen, and what is to be put in force.
struct Look {
    watched: Vec<Watched>,
    backends: BackendFiles,
    renewed: Option<Renewed>,
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
        Self { metrics, watched: Vec::new(), backends: BackendFiles::default(), looking: None, next: Instant::now() }
    }

    /// A configuration is in force: from now on these listeners, the admin address if it
    /// has TLS, and the files of this Plan's backends.
    pub(super) fn follow(&mut self, open: &[Open], admin: Option<Arc<Front>>, plan: &Plan) {
        let now = now();
        let watched = |listener: &Arc<str>, front: Option<&Arc<Front>>, tls: Option<&Tls>| {
            let (front, tls) = (Arc::clone(front?), tls?.clone());
            // The configuration's own warnings have told what there is to tell by now.
            let seen = tls.certificates.iter().map(|one| (None, Warned::at(now, one.not_after))).collect();
            Some(Watched { listener: Arc::clone(listener), front, tls, seen, seen_authorities: None })
        };
        let of_listeners = open.iter().filter_map(|open| {
            let Open { listener, tls, .. } = open;
            watched(&listener.name, tls.as_ref(), listener.tls.as_ref())
        });
        let of_admin = watched(&ADMIN.into(), admin.as_ref(), plan.admin.as_ref().and_then(|admin| admin.tls.as_ref()));
        self.watched = of_listeners.chain(of_admin).collect();
        self.backends = BackendFiles::of(plan);
        self.looking = None;
        self.next = Instant::now();
        self.show();
    }

    /// Looks when it is time to, and comes back when that is done, with what has to be put in force in place of `plan`,
    /// which is. Never, where nothing has TLS.
    pub(super) async fn looked(&mut self, background: &Background, plan: &Arc<Plan>) -> Option<Renewed> {
        if self.watched.is_empty() && self.backends.is_empty() {
            return std::future::pending().await;
        }
        let looking = match &mut self.looking {
            Some(looking) => looking,
            None => {
                sleep_until(self.next).await;
                let (mut watched, mut backends) = (self.watched.clone(), self.backends.clone());
                let (plan, metrics) = (Arc::clone(plan), Arc::clone(&self.metrics));
                self.looking.insert(Box::pin(background.run(move || {
                    watched.iter_mut().for_each(|one| one.look(now(), &metrics));
                    let mut renewed = backends.look(&plan, &metrics);
                    if let Some(renewed) = &mut renewed {
                        // Its listeners are those of when the files of the configuration were read.
                        watched.iter().for_each(|one| one.keep(&mut renewed.plan));
                    }
                    Look { watched, backends, renewed }
                })))
            }
        };
        let look = looking.as_mut().await;
        self.looking = None;
        (self.watched, self.backends) = (look.watched, look.backends);
        self.next = Instant::now() + INTERVAL;
        self.show();
        look.renewed
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
    /// Puts what is in use into a Plan that is to come.
    fn keep(&self, plan: &mut Plan) {
        if let (ADMIN, Some(admin)) = (&*self.listener, &mut plan.admin) {
            admin.tls = Some(self.tls.clone());
        } else if let Some(listener) = plan.listeners.iter_mut().find(|listener| listener.name == self.listener) {
            listener.tls = Some(self.tls.clone());
        }
    }

    fn look(&mut self, now: i64, metrics: &Metrics) {
        let mut tls = self.tls.clone();
        let mut renewed = Vec::new();
        for (certificate, (seen, warned)) in tls.certificates.iter_mut().zip(&mut self.seen) {
            let had_ocsp = certificate.ocsp.is_some();
            if certificate.ocsp_until.is_some_and(|until| until < now) {
                *certificate = Arc::new(certificate.without_ocsp());
                renewed.push(Arc::clone(&certificate.label));
            }
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
                    Err(error) => failed(metrics, &self.listener, &error),
                }
            }
            if had_ocsp && certificate.ocsp.is_none() {
                let (listener, certificate) = (&*self.listener, &*certificate.label);
                tracing::warn!(listener, certificate, "the OCSP response has expired and is not sent any more");
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
                    Err(error) => failed(metrics, &self.listener, &error),
                }
            }
        }
        if !renewed.is_empty() {
            match self.front.renew(&tls) {
                Ok(()) => {
                    self.tls = tls;
                    metrics.tls_reload(true);
                    for file in renewed {
                        tracing::info!(listener = &*self.listener, certificate = &*file, "certificate read anew");
                    }
                }
                Err(error) => failed(metrics, &self.listener, &error.to_string()),
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

fn failed(metrics: &Metrics, listener: &str, error: &str) {
    metrics.tls_reload(false);
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

/// See [`Identity`].
pub(super) fn identity(path: &Path) -> Identity {
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
