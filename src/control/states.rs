//! What operators have said and not taken back, by name: it holds over reloads, restarts and changes of addresses.
//!
//! Three levels say something of a backend in a pool: its region, its pool, and it itself there. The most restrictive of
//! them holds, and each is taken back where it was said, so that the end of a region's drain does not bring back a
//! backend that somebody works on.
//!
//! What names something that is not configured stays: a pool that a reload removes and a later one brings back is still
//! drained. After [`KEPT`] it goes, so that the file does not grow for ever.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::{Operator, Target};

/// States at a time. Whoever needs more means a pool or a region.
pub const MAX_STATES: usize = 16_384;

/// How long something that is not configured any more keeps its state.
pub const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Who says something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Author {
    /// Who they say they are.
    pub who: Option<String>,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Where they are connected from.
    pub from: Option<String>,
}

/// What has been said of one region, pool or backend, other than that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Of what, as the configuration spells it.
    pub target: Target,
    /// What.
    pub state: Operator,
    /// When.
    pub since: Timestamp,
    /// By whom.
    pub author: Author,
    /// Since when no configuration speaks of it; `None`: it does.
    pub absent_since: Option<Timestamp>,
}

/// Everything that has been said and not taken back. Immutable once shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct States {
    by_key: BTreeMap<Target, Arc<Said>>,
}

impl States {
    /// All of it, by region, then by asset, then by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Said>> {
        self.by_key.values()
    }

    /// Of how many things something has been said.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether everything is ready.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// What has been said of this very thing.
    pub fn get(&self, target: &Target) -> Option<&Arc<Said>> {
        self.by_key.get(&key(target))
    }

    /// What this very thing is by itself.
    pub fn state(&self, target: &Target) -> Operator {
        self.get(target).map_or(Operator::Ready, |said| said.state)
    }

    /// What keeps a backend of a pool out: the most restrictive word, and of equal ones that of the widest level.
    pub fn holding(&self, asset: &Arc<str>, region: &Arc<str>, address: &Arc<str>) -> Option<&Arc<Said>> {
        if self.is_empty() {
            return None;
        }
        let [asset, region, address] = [asset, region, address].map(Arc::clone);
        let levels = [
            Target::Backend(Arc::clone(&asset), Arc::clone(&region), address),
            Target::Pool(asset, Arc::clone(&region)),
            Target::Region(region),
        ];
        // Of equal ones, `max_by_key` takes the last.
        levels.iter().filter_map(|level| self.get(level)).max_by_key(|said| said.state)
    }

    /// Says something. That a thing is ready needs no place.
    pub fn say(&mut self, said: Said) {
        let key = key(&said.target);
        match said.state {
            Operator::Ready => self.by_key.remove(&key),
            _ => self.by_key.insert(key, Arc::new(said)),
        };
    }

    /// Notes what is configured `now` and what is not, and forgets what has not been for too long. `None`: nothing
    /// changes; else the states then, and what was forgotten.
    pub fn reviewed(&self, now: Timestamp, is_configured: impl Fn(&Target) -> bool) -> Option<(Self, Vec<Arc<Said>>)> {
        let mut next: Option<Self> = None;
        let mut forgotten = Vec::new();
        for (key, said) in &self.by_key {
            let absent_since = match (is_configured(&said.target), said.absent_since) {
                (true, _) => None,
                (false, since) => Some(since.unwrap_or(now)),
            };
            let is_over = absent_since.is_some_and(|since| now.duration_since(since) > KEPT);
            if absent_since == said.absent_since && !is_over {
                continue;
            }
            let next = next.get_or_insert_with(|| self.clone());
            if is_over {
                next.by_key.remove(key);
                forgotten.push(Arc::clone(said));
            } else {
                next.by_key.insert(key.clone(), Arc::new(Said { absent_since, ..(**said).clone() }));
            }
        }
        Some((next?, forgotten))
    }
}

/// Names compare without case, addresses of the internet in their usual form, paths byte for byte.
fn key(target: &Target) -> Target {
    let lower = |name: &Arc<str>| name.to_ascii_lowercase().into();
    match target {
        Target::Region(region) => Target::Region(lower(region)),
        Target::Pool(asset, region) => Target::Pool(lower(asset), lower(region)),
        Target::Backend(asset, region, address) => Target::Backend(lower(asset), lower(region), usual(address)),
    }
}

/// An address as labels have it.
pub(super) fn usual(address: &Arc<str>) -> Arc<str> {
    match address.parse::<SocketAddr>() {
        Ok(parsed) => parsed.to_string().into(),
        Err(_) => Arc::clone(address),
    }
}

#[cfg(test)]
mod tests {
    use Operator::{Drain, Maintenance, Ready};

    use super::*;

    fn target(text: &str) -> Target {
        Target::from_text(text).expect("a target")
    }

    fn said(text: &str, state: Operator) -> Said {
        let author = Author { who: Some("ann".into()), ..Author::default() };
        Said { target: target(text), state, since: Timestamp::UNIX_EPOCH, author, absent_since: None }
    }

    fn states(all: &[(&str, Operator)]) -> States {
        let mut states = States::default();
        all.iter().for_each(|(text, state)| states.say(said(text, *state)));
        states
    }

    #[test]
    fn the_most_restrictive_level_holds() {
        type Case<'a> = (&'a [(&'a str, Operator)], Option<(&'a str, Operator)>);
        let table: &[Case<'_>] = &[
            (&[], None),
            (&[("north", Drain)], Some(("region", Drain))),
            (&[("south", Drain)], None),
            (&[("gold/north", Drain)], Some(("pool", Drain))),
            (&[("tin/north", Drain)], None),
            (&[("gold/north/10.0.0.1:80", Drain)], Some(("backend", Drain))),
            (&[("gold/north/10.0.0.2:80", Drain)], None),
            (&[("tin/north/10.0.0.1:80", Drain)], None),
            (&[("north", Drain), ("gold/north", Drain), ("gold/north/10.0.0.1:80", Drain)], Some(("region", Drain))),
            (&[("north", Drain), ("gold/north", Maintenance)], Some(("pool", Maintenance))),
            (&[("gold/north", Drain), ("gold/north/10.0.0.1:80", Maintenance)], Some(("backend", Maintenance))),
            (&[("north", Drain), ("north", Ready), ("gold/north", Drain)], Some(("pool", Drain))),
            (&[("NORTH", Drain)], Some(("region", Drain))),
            (&[("Gold/nOrth", Drain)], Some(("pool", Drain))),
            (&[("north", Drain), ("NoRtH", Ready)], None),
        ];
        for (all, wanted) in table {
            let states = states(all);
            let holding = states.holding(&"gold".into(), &"north".into(), &"10.0.0.1:80".into());
            let seen = holding.map(|said| (said.target.level(), said.state));
            assert_eq!(seen, *wanted, "{all:?}");
        }
    }

    #[test]
    fn addresses_are_the_same_however_they_are_written() {
        let states = states(&[("gold/north/[2001:DB8:0::1]:80", Drain), ("gold/north/unix:/run/A", Drain)]);
        assert_eq!(states.state(&target("gold/north/[2001:db8::1]:80")), Drain);
        assert_eq!(states.state(&target("gold/north/unix:/run/A")), Drain);
        assert_eq!(states.state(&target("gold/north/unix:/run/a")), Ready);
    }

    #[test]
    fn what_is_not_configured_stays_for_a_while() {
        let first = states(&[("north", Drain), ("gold/north", Drain)]);
        let at = |days: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days);
        let gone = |target: &Target| *target == Target::Region("north".into());
        assert!(first.reviewed(at(0), |_| true).is_none());
        let (absent, forgotten) = first.reviewed(at(1), gone).expect("a pool is gone");
        assert_eq!((absent.len(), forgotten.len()), (2, 0));
        assert!(absent.reviewed(at(31), gone).is_none(), "not yet");
        let (back, _) = absent.reviewed(at(31), |_| true).expect("it is back");
        assert_eq!(back, first);
        let (left, forgotten) = absent.reviewed(at(32), gone).expect("it is over");
        assert_eq!((left.len(), forgotten[0].target.to_string()), (1, "gold/north".to_owned()));
    }
}
