//! `grpc` and `grpc_service` of a `health` table: checks by the health protocol of gRPC.

use crate::config::context::Context;
use crate::config::decode::{Fields, boolean, text};
use crate::config::diagnostic::Fault;

/// `grpc = true` asks for the server as a whole, `grpc_service` for one service; `grpc = false` for neither.
pub(super) fn decode(cx: &Context<'_>, f: &Fields<'_, '_, '_>) -> Option<Option<String>> {
    let service = f.read("grpc_service", |cx, value| {
        let name = text(cx, value)?;
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
        if !is_name || name.len() > 127 {
            let fault = Fault::error(value.span, format!("`{name}` cannot be the name of a service"));
            cx.note(fault.help("such as \"package.Service\", 127 characters at most"));
            return None;
        }
        Some(name.to_owned())
    });
    match (f.read("grpc", boolean), service) {
        (Some(false), Some(_)) => {
            if let Some(span) = f.span("grpc") {
                cx.note(Fault::error(span, "`grpc_service` is for checks by gRPC"));
            }
            None
        }
        (Some(false), None) => Some(None),
        (_, Some(service)) => Some(Some(service)),
        (Some(true), None) => Some(Some(String::new())),
        (None, None) => None,
    }
}
