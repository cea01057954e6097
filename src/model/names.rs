//! Names to numbers: the spelling of a client against the spellings of the file, ASCII case-insensitively.
//!
//! At 100,000 names what costs is memory that is not in a cache, so a name of up to eleven bytes (nearly all) lies in
//! the table itself, sixteen bytes with its number: one probe, one line of memory, two comparisons of integers. Longer
//! names lie elsewhere. Nothing is allocated to find one.
//!
//! The hash is not seeded. It need not be: clients only look names up, and which names are in the table is the
//! operator's choice.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Bytes of a name that lies in the table.
const SHORT: usize = 11;

/// Names that compare ASCII case-insensitively, each with a number.
#[derive(Debug, Clone, Default)]
pub struct Names {
    short: HashTable<Short>,
    long: HashTable<(Box<str>, u32)>,
}

/// A name of up to [`SHORT`] bytes in lower case, filled up with zeros; then its length in the highest byte.
#[derive(Debug, Clone, Copy)]
struct Short {
    first: u64,
    rest: u32,
    number: u32,
}

impl Names {
    /// Room for this many.
    pub fn with_capacity(n: usize) -> Self {
        Self { short: HashTable::with_capacity(n), long: HashTable::new() }
    }

    /// Adds a name. If it is there already, in whatever case, gives back the number it has and changes nothing.
    pub fn insert(&mut self, name: &str, number: u32) -> Result<(), u32> {
        if let Some((first, rest)) = short(name.as_bytes()) {
            let same = |known: &Short| known.first == first && known.rest == rest;
            return match self.short.entry(hash_short(first, rest), same, |known| hash_short(known.first, known.rest)) {
                Entry::Occupied(known) => Err(known.get().number),
                Entry::Vacant(place) => {
                    place.insert(Short { first, rest, number });
                    Ok(())
                }
            };
        }
        let same = |known: &(Box<str>, u32)| known.0.eq_ignore_ascii_case(name);
        match self.long.entry(hash_long(name.as_bytes()), same, |known| hash_long(known.0.as_bytes())) {
            Entry::Occupied(known) => Err(known.get().1),
            Entry::Vacant(place) => {
                place.insert((name.into(), number));
                Ok(())
            }
        }
    }

    /// The number of a name, text or not: what is not UTF-8 is nobody's. Allocates nothing.
    #[inline]
    pub fn find(&self, name: impl AsRef<[u8]>) -> Option<u32> {
        let name = name.as_ref();
        if let Some((first, rest)) = short(name) {
            let same = |known: &Short| known.first == first && known.rest == rest;
            return self.short.find(hash_short(first, rest), same).map(|known| known.number);
        }
        if self.long.is_empty() {
            return None;
        }
        self.long.find(hash_long(name), |known| known.0.as_bytes().eq_ignore_ascii_case(name)).map(|known| known.1)
    }
}

/// A short name as two integers; `None`: it is long.
#[inline]
fn short(bytes: &[u8]) -> Option<(u64, u32)> {
    let length = bytes.len();
    // Overlapping reads of fixed sizes instead of a copy of a varying one, which would be a call.
    let (first, rest) = match length {
        0..4 => {
            let byte = |at: usize| u64::from(bytes.get(at).copied().unwrap_or(0)) << (8 * at);
            (byte(0) | byte(1) | byte(2), 0)
        }
        4..8 => {
            let (low, high) = (four(bytes, 0), four(bytes, length - 4));
            (u64::from(low) | (u64::from(high) << (8 * (length - 4))), 0)
        }
        8..=SHORT => {
            let low = u64::from(four(bytes, 0)) | (u64::from(four(bytes, 4)) << 32);
            // The last four bytes, less those that are in the first eight already.
            let rest = u64::from(four(bytes, length - 4)) >> (8 * (12 - length));
            (low, rest as u32)
        }
        _ => return None,
    };
    Some((lower(first), lower(rest.into()) as u32 | ((length as u32) << 24)))
}

#[inline]
fn four(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four))
}

/// Eight bytes in ASCII lower case at once. Each byte's highest bit works as a flag: with it cleared, adding
/// 128 − 'A' sets it from 'A' on, adding 127 − 'Z' sets it after 'Z'; a letter between the two gets 0x20 added.
#[inline]
fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * EACH);
    let from_a = low + (0x80 - u64::from(b'A')) * EACH;
    let after_z = low + (0x7f - u64::from(b'Z')) * EACH;
    let upper = (from_a ^ after_z) & !word & (0x80 * EACH);
    word | (upper >> 2)
}

/// Two multiplications whose high and low halves are folded (the core of wyhash).
#[inline]
fn hash_short(first: u64, rest: u32) -> u64 {
    mix(mix(first ^ 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93), u64::from(rest) ^ 0xa076_1d64_78bd_642f)
}

fn hash_long(name: &[u8]) -> u64 {
    let mut hash = name.len() as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = from.to_ascii_lowercase();
        }
        hash = mix(hash ^ u64::from_le_bytes(word), 0xd6e8_feb8_6659_fd93);
    }
    hash
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_does_not_count_and_length_does() {
        let mut names = Names::default();
        assert_eq!(names.insert("BTC", 1), Ok(()));
        assert_eq!(names.insert("btc", 2), Err(1));
        assert_eq!(names.insert("long-name-of-an-asset", 3), Ok(()));
        assert_eq!(names.insert("LONG-name-of-an-asset", 4), Err(3));
        assert_eq!(names.find("bTc"), Some(1));
        assert_eq!(names.find("LONG-name-of-an-ASSET"), Some(3));
        for other in ["BTC\0", "\0BTC", "BT", "", "long-name-of-an-asse", "long-name-of-an-asset2"] {
            assert_eq!(names.find(other), None, "{other:?}");
        }
    }

    #[test]
    fn lower_is_ascii_lower() {
        for byte in 0..=255u8 {
            for at in 0..8 {
                let mut word = *b"zZaA@[`{";
                word[at] = byte;
                assert_eq!(lower(u64::from_le_bytes(word)), u64::from_le_bytes(word.map(|b| b.to_ascii_lowercase())));
            }
        }
    }

    proptest! {
        /// Against a map of names in lower case.
        #[test]
        fn finds_what_was_inserted(
            inserted in prop::collection::vec("[a-cA-C\u{0}@é]{0,20}", 0..60),
            asked in prop::collection::vec("[a-cA-C\u{0}@é]{0,20}", 0..60),
        ) {
            let (mut names, mut plain) = (Names::with_capacity(4), HashMap::new());
            for (number, name) in (0..).zip(&inserted) {
                let known = plain.get(&name.to_ascii_lowercase()).copied();
                prop_assert_eq!(names.insert(name, number), known.map_or(Ok(()), Err));
                plain.entry(name.to_ascii_lowercase()).or_insert(number);
            }
            for name in inserted.iter().chain(&asked) {
                prop_assert_eq!(names.find(name), plain.get(&name.to_ascii_lowercase()).copied(), "{:?}", name);
            }
        }
    }
}
