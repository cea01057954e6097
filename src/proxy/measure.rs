//! How long backends take to answer, measured for the pools whose policy goes by it. For all others this does nothing.
//!
//! What counts is the time to the response head, from the start of the try or, if that is later, from the end of the
//! request's body: how fast a client sends is not its backend's merit. A failure counts as a penalty, for else a backend
//! that fails fast would look best of all.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::backend::Backend;
use crate::message::ResponseHead;
use crate::model::{Policy, PoolSettings};

/// What a failure counts as, unless it took longer.
const PENALTY: Duration = Duration::from_secs(5);
/// The bounds of what a backend may ask for instead with Retry-After.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);

/// One try, being measured. One that is dropped was given up: the backend has been silent for so long.
pub(crate) struct Measure<'a> {
    /// `None`: there is nothing to measure, or it has been done.
    backend: Option<&'a Backend>,
    began: Instant,
}

impl<'a> Measure<'a> {
    /// A try begins.
    pub(crate) fn begin(settings: &PoolSettings, backend: &'a Backend, began: Instant) -> Self {
        let backend = (settings.balance == Policy::PeakEwma).then_some(backend);
        if let Some(backend) = backend {
            backend.latency().asked(began.into_std());
        }
        Self { backend, began }
    }

    /// A response head came at this time. `uploaded`: when the request's body had been received; `None`: it was not yet.
    pub(crate) fn answered(mut self, head: &ResponseHead, at: Instant, uploaded: Option<Instant>) {
        let Some(backend) = self.backend.take() else { return };
        let latency = backend.latency();
        let took = uploaded.map(|uploaded| at.saturating_duration_since(self.began.max(uploaded)));
        let penalty = is_failure(head.status.as_u16()).then(|| penalty(head, SystemTime::now()));
        match (took, penalty) {
            (took, Some(penalty)) => latency.took(penalty.max(took.unwrap_or_default()), at.into_std()),
            (Some(took), None) => latency.took(took, at.into_std()),
            (None, None) => {}
        }
    }

    /// There was no response head.
    pub(crate) fn failed(mut self) {
        if let Some(backend) = self.backend.take() {
            let now = Instant::now();
            backend.latency().took(PENALTY.max(now.saturating_duration_since(self.began)), now.into_std());
        }
    }

    /// What came of it says nothing about the backend.
    pub(crate) fn void(mut self) {
        self.backend = None;
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        if let Some(backend) = self.backend {
            let now = Instant::now();
            backend.latency().kept_silent(now.saturating_duration_since(self.began), now.into_std());
        }
    }
}

/// The backend says that it failed, or that it has too much to do.
fn is_failure(status: u16) -> bool {
    status >= 500 || status == 429
}

/// What Retry-After asks for, in seconds or as a date (RFC 9110, 10.2.3), within bounds; without it the usual.
fn penalty(head: &ResponseHead, now: SystemTime) -> Duration {
    let asked = head.fields.named("retry-after").next().and_then(|value| {
        let text = str::from_utf8(value).ok()?.trim();
        match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
        }
    });
    asked.map_or(PENALTY, |asked| asked.clamp(LEAST, MOST))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::backend::Identity;
    use crate::model::Address;

    fn backend() -> std::sync::Arc<Backend> {
        let address = Address::Ip(([127, 0, 0, 1], 1).into());
        Backend::new(Identity { region: "r".into(), address, protocol: Default::default(), tls: None })
    }

    fn head(status: u16, retry_after: Option<&str>) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        if let Some(value) = retry_after {
            head.fields.push(b"Retry-After", value.as_bytes());
        }
        head
    }

    fn milliseconds(backend: &Backend, now: Instant) -> Option<u64> {
        backend.latency().seconds(now.into_std()).map(|seconds| (seconds * 1e3).round() as u64)
    }

    fn ewma() -> PoolSettings {
        PoolSettings { balance: Policy::PeakEwma, ..PoolSettings::default() }
    }

    #[test]
    fn what_counts_as_how_long() {
        let ms = Duration::from_millis;
        for (status, retry_after, uploaded, expected) in [
            (200, None, Some(0), 30),
            (404, Some("9"), Some(0), 30),
            (200, None, Some(20), 10),
            (200, None, None, 1000),
            (500, None, Some(0), 5_000),
            (503, None, None, 5_000),
            (503, Some("7"), Some(0), 7_000),
            (429, Some("0"), Some(0), 1_000),
            (503, Some("86400"), Some(0), 60_000),
            (503, Some("soon"), Some(0), 5_000),
            (503, Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0), 1_000),
        ] {
            let (backend, began) = (backend(), Instant::now());
            let at = began + ms(30);
            let measure = Measure::begin(&ewma(), &backend, began);
            assert_eq!(milliseconds(&backend, began), Some(1000), "a guess");
            measure.answered(&head(status, retry_after), at, uploaded.map(|after| began + ms(after)));
            let got = milliseconds(&backend, at).unwrap();
            assert!(got.abs_diff(expected) < 5, "{status} {retry_after:?} {uploaded:?}: {got}");
        }
    }

    #[test]
    fn dates_are_read() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        let head = head(503, Some("Wed, 21 Oct 2015 07:28:20 GMT"));
        assert_eq!(penalty(&head, now), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_silence_count() {
        let (backend, began) = (backend(), Instant::now());
        Measure::begin(&ewma(), &backend, began).void();
        assert_eq!(milliseconds(&backend, began), Some(1000));
        tokio::time::advance(Duration::from_secs(3)).await;
        drop(Measure::begin(&ewma(), &backend, began));
        assert_eq!(milliseconds(&backend, Instant::now()), Some(3000));
        Measure::begin(&ewma(), &backend, began).failed();
        assert_eq!(milliseconds(&backend, Instant::now()), Some(5000));
        tokio::time::advance(Duration::from_secs(6)).await;
        Measure::begin(&ewma(), &backend, began).failed();
        assert_eq!(milliseconds(&backend, Instant::now()), Some(9000));
    }

    #[test]
    fn nothing_is_measured_for_other_policies() {
        let (backend, began) = (backend(), Instant::now());
        Measure::begin(&PoolSettings::default(), &backend, began).answered(&head(200, None), began, Some(began));
        Measure::begin(&PoolSettings::default(), &backend, began).failed();
        drop(Measure::begin(&PoolSettings::default(), &backend, began));
        assert_eq!(milliseconds(&backend, began), None);
    }
}
