//! What TLS to backends is made of, read anew while it is in use.
//!
//! The files of the configuration are not: somebody may be editing them just then.

use std::collections::HashMap;
use std::sync::Arc;

use super::pem;
use super::trust::Trust;
use crate::model::{BackendTls, Plan, PoolSettings};

/// What the files hold now.
#[derive(Debug, Default)]
pub struct Renewed {
    /// The Plan with it. `None`: nothing has changed.
    pub plan: Option<Plan>,
    /// Why some of the files can't be used, a sentence each. Pools that name those stay as they were.
    pub errors: Vec<String>,
}

/// Reads every file anew that TLS to backends is made of.
pub fn reread_backends(plan: &Plan) -> Renewed {
    let trust = Trust::default();
    let mut renewed = Renewed::default();
    // By where the settings lie, since pools of equal settings share them; those that have not changed stand for `None`.
    let mut known: HashMap<*const PoolSettings, Option<Arc<PoolSettings>>> = HashMap::new();
    for settings in plan.pools.iter().map(|pool| &pool.settings) {
        let Some(tls) = &settings.tls else { continue };
        known.entry(Arc::as_ptr(settings)).or_insert_with(|| match reread(&trust, tls) {
            Ok(new) if new == **tls => None,
            Ok(new) => Some(Arc::new(PoolSettings { tls: Some(Arc::new(new)), ..PoolSettings::clone(settings) })),
            Err(words) => {
                if !renewed.errors.contains(&words) {
                    renewed.errors.push(words);
                }
                None
            }
        });
    }
    if known.values().any(Option::is_some) {
        let mut plan = plan.clone();
        for pool in &mut plan.pools {
            if let Some(Some(new)) = known.get(&Arc::as_ptr(&pool.settings)) {
                pool.settings = Arc::clone(new);
            }
        }
        renewed.plan = Some(plan);
    }
    renewed
}

fn reread(trust: &Trust, old: &BackendTls) -> Result<BackendTls, String> {
    let files = &old.files;
    let roots = match (&files.ca, old.verifies) {
        (_, false) => None,
        (Some(ca), true) => Some(trust.authorities(ca)?),
        (None, true) => Some(trust.of_system()?),
    };
    let shown = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => Some(trust.shown(cert, key)?),
        _ => None,
    };
    let client = trust.client(roots, shown).map_err(|error| error.to_string())?;
    // One that has ended is no better than the one before. That which is in use stays until there is another.
    if let Some(cert) = files.cert.as_ref().filter(|_| client != old.client)
        && let Some(words) = pem::leaf(&pem::certificates(cert)?, cert)?.expired(cert)
    {
        return Err(words);
    }
    Ok(BackendTls { client, ..old.clone() })
}
