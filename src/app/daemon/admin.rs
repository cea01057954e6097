//! The admin address of a daemon: bound once, served for as long as it lives. What a reload can change of it is its
//! token, which the guard reads in the Plan in force, and its certificates.

use std::io;
use std::sync::Arc;

use super::super::RunError;
use crate::admin;
use crate::control::Handle;
use crate::listen::held_by;
use crate::model::{Bind, Plan, Protocols};
use crate::tls::Front;

/// See the module.
pub(super) struct AdminSide {
    pub(super) address: Bind,
    /// `None`: in clear.
    front: Option<Arc<Front>>,
}

impl AdminSide {
    /// Binds it and begins to serve. `None`: `admin = false`.
    pub(super) async fn start(plan: &Plan, handle: Handle) -> Result<Option<Self>, RunError> {
        let Some(config) = &plan.admin else { return Ok(None) };
        let cannot = |source: io::Error| RunError::Admin {
            address: config.bind.to_string(),
            held_by: held_by(&config.bind, &source),
            source,
        };
        let socket = admin::Socket::bind(&config.bind).await.map_err(cannot)?;
        let spoken = Protocols { h1: true, h2: false };
        let front = config.tls.as_ref().map(|tls| Front::new(tls, spoken, None)).transpose();
        let front = front.map_err(|error| cannot(io::Error::other(error)))?.map(Arc::new);
        let address = socket.address().clone();
        tracing::info!(address = address.to_string(), "admin listening");
        tokio::task::spawn_local(admin::serve(socket, front.clone(), handle));
        Ok(Some(Self { address, front }))
    }

    /// Goes over to the certificates of a Plan that is in force from now on; what to look after then.
    pub(super) fn follow(&self, plan: &Plan) -> Option<Arc<Front>> {
        let (front, tls) = (self.front.as_ref()?, plan.admin.as_ref()?.tls.as_ref()?);
        if let Err(error) = front.renew(tls) {
            tracing::error!(%error, "the admin address goes on with the certificates that it has");
        }
        Some(Arc::clone(front))
    }
}
