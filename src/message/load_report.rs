//! Load reports in the fields of a response, as the xDS project's Open Request Cost Aggregation has them (ORCA).
//!
//! `Endpoint-Load-Metrics` is text (`TEXT cpu_utilization=0.7,rps_fractional=120`), JSON (`JSON {"cpu_utilization":0.7}`),
//! or the message in Base64 (`BIN …`); `Endpoint-Load-Metrics-Bin` is the latter without a word before it. Names are those
//! of `xds.data.orca.v3.OrcaLoadReport`; what weights are not made of is skipped. A report comes from a server that may be
//! broken and may come with every response, so whatever is doubtful makes it no report: a number that is none, a field or
//! a key that stands twice, more than [`MAX`] bytes.
//!
//! Sources: `xds/data/orca/v3/orca_load_report.proto`; Envoy, `source/common/orca/orca_parser.cc`.

mod binary;

use serde::Deserialize;
use smallvec::SmallVec;

use super::fields::{Fields, Known, Names};
use crate::model::LoadReport;

/// The fields that hold one.
pub const FIELDS: Names = Names::of(&[Known::LoadMetrics, Known::LoadMetricsBin]);

/// Their names, in lower case.
pub const NAMES: [&str; 2] = ["endpoint-load-metrics", "endpoint-load-metrics-bin"];

/// Bytes of a report, at most.
pub const MAX: usize = 4096;
/// Keys of a report in text, at most.
const MAX_KEYS: usize = 64;

/// What a report says that matters here. What it does not say is 0, as in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Report {
    #[serde(alias = "cpuUtilization")]
    cpu_utilization: f64,
    #[serde(alias = "memUtilization")]
    mem_utilization: f64,
    #[serde(alias = "rpsFractional")]
    rps_fractional: f64,
    eps: f64,
    #[serde(alias = "applicationUtilization")]
    application_utilization: f64,
}

/// Reads the report of a response. `None`: there is none that can be used.
pub fn read(fields: &Fields) -> Option<LoadReport> {
    let mut all = fields.all(Known::LoadMetrics).map(|value| (value, false));
    let mut binary = fields.all(Known::LoadMetricsBin).map(|value| (value, true));
    match (all.next(), binary.next(), all.next(), binary.next()) {
        (Some((value, _)), None, None, None) => worded(value),
        (None, Some((value, _)), None, None) => encoded(value),
        _ => None,
    }
}

/// The value of `Endpoint-Load-Metrics`.
pub fn worded(value: &[u8]) -> Option<LoadReport> {
    if value.len() > MAX {
        return None;
    }
    let at = value.iter().position(|&b| b == b' ')?;
    let (word, rest) = value.split_at(at);
    let rest = rest.trim_ascii();
    match word {
        b"TEXT" => text(rest)?.usable(),
        b"JSON" => serde_json::from_slice::<Report>(rest).ok()?.usable(),
        b"BIN" => encoded(rest),
        _ => None,
    }
}

/// The value of `Endpoint-Load-Metrics-Bin`: Base64, padded or not.
pub fn encoded(value: &[u8]) -> Option<LoadReport> {
    if value.len() > MAX {
        return None;
    }
    let bare = value.strip_suffix(b"==").or_else(|| value.strip_suffix(b"=")).unwrap_or(value);
    // Padding fills the last group of four, or it is none.
    if bare.len() < value.len() && !value.len().is_multiple_of(4) {
        return None;
    }
    binary::read(&data_encoding::BASE64_NOPAD.decode(bare).ok()?)?.usable()
}

impl Report {
    /// By gRFC A58 the application's own word goes before the processor's. What is not used has to be a number, too:
    /// a report with one that is none comes from a server that does not know what it says.
    fn usable(self) -> Option<LoadReport> {
        let is_number = |n: f64| n.is_finite() && n >= 0.0;
        let all = [self.cpu_utilization, self.mem_utilization, self.application_utilization];
        let utilization =
            if self.application_utilization > 0.0 { self.application_utilization } else { self.cpu_utilization };
        all.into_iter().all(is_number).then(|| LoadReport::new(utilization, self.rps_fractional, self.eps))?
    }

    /// The place of a key's number; `None`: it is not one of ours.
    fn number(&mut self, key: &str) -> Option<&mut f64> {
        Some(match key {
            "cpu_utilization" => &mut self.cpu_utilization,
            "mem_utilization" => &mut self.mem_utilization,
            "rps_fractional" => &mut self.rps_fractional,
            "eps" => &mut self.eps,
            "application_utilization" => &mut self.application_utilization,
            _ => return None,
        })
    }
}

/// `key=number,key=number`
fn text(value: &[u8]) -> Option<Report> {
    let value = str::from_utf8(value).ok()?;
    let mut report = Report::default();
    let mut keys: SmallVec<[&str; 16]> = SmallVec::new();
    for pair in value.split(',') {
        let (key, number) = pair.split_once('=')?;
        let (key, number) = (key.trim_ascii(), number.trim_ascii().parse::<f64>().ok()?);
        if key.is_empty() || keys.len() >= MAX_KEYS || keys.contains(&key) {
            return None;
        }
        keys.push(key);
        if let Some(place) = report.number(key) {
            *place = number;
        } else if !number.is_finite() {
            return None;
        }
    }
    Some(report)
}

#[cfg(test)]
mod tests;
