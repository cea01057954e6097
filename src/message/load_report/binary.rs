//! A report as a protobuf message: the few fields that matter, decoded by hand, for a crate that decodes any message
//! brings a compiler with it.
//!
//! Source: the protobuf encoding guide ("Message Structure"): a field is a number and a wire type in a varint, then what
//! the type says. Maps and numbers that are not asked for are skipped by their length; groups have long been abolished
//! and make it no report, as do a field of ours of the wrong type and one that stands twice.

use super::Report;

/// The message's bytes.
pub(super) fn read(mut bytes: &[u8]) -> Option<Report> {
    let mut report = Report::default();
    let mut seen = 0_u16;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let (field, kind) = (tag >> 3, tag & 7);
        if field == 0 || tag > u64::from(u32::MAX) {
            return None;
        }
        let place = match field {
            1 => Some(&mut report.cpu_utilization),
            2 => Some(&mut report.mem_utilization),
            6 => Some(&mut report.rps_fractional),
            7 => Some(&mut report.eps),
            9 => Some(&mut report.application_utilization),
            _ => None,
        };
        if let Some(place) = place {
            let bit = 1 << field;
            if kind != FIXED_64 || seen & bit != 0 {
                return None;
            }
            seen |= bit;
            *place = f64::from_le_bytes(*bytes.first_chunk()?);
        }
        let length = match kind {
            VARINT => {
                varint(&mut bytes)?;
                0
            }
            FIXED_64 => 8,
            FIXED_32 => 4,
            LENGTH => usize::try_from(varint(&mut bytes)?).ok()?,
            _ => return None,
        };
        bytes = bytes.get(length..)?;
    }
    Some(report)
}

/// Wire types.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// Seven bits a byte, the lowest first; ten bytes at most.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
