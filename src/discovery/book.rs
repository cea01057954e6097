//! What is known of each name, and when it is asked for again.
//!
//! A failure never takes addresses away: a name that was found once keeps its last answer until another is found. The
//! two families (A and AAAA) fail apart, so each keeps its own. "No such records" is an answer for one family, but
//! when it leaves the name without any address it counts as a failure: an empty zone is more often a mistake than the
//! wish to have no backends.
//!
//! Pure: answers and the time are passed in.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Addresses of one name that are used; an answer with more is cut.
const MAX_ADDRESSES: usize = 1024;

/// What asking for one family came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// These, for this long.
    Addresses(Vec<IpAddr>, Duration),
    /// The name has none of this family.
    None,
    /// Nobody knows: no answer in time, or an error.
    Unknown,
}

/// What asking for a name came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) v4: Found,
    pub(super) v6: Found,
}

/// All names that were asked for.
#[derive(Debug)]
pub(super) struct Book {
    entries: HashMap<Arc<str>, Entry>,
    /// When each followed name is asked for next.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// The bounds of the time between two questions.
    least: Duration,
    most: Duration,
}

#[derive(Debug)]
struct Entry {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Both, IPv4 first.
    addresses: Vec<IpAddr>,
    /// What was last given out, to be compared with.
    told: Vec<IpAddr>,
    /// The last answer is good until then.
    next: Instant,
    /// Failures in a row.
    failures: u32,
    followed: bool,
}

/// How an answer was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// The name is followed and has other addresses than were told.
    News,
    /// It has not, or nobody follows it.
    Nothing,
    /// There was no usable answer, for the first time in a row; so many addresses stay.
    Failed(usize),
}

impl Book {
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { entries: HashMap::new(), due: BTreeSet::new(), least, most }
    }

    /// Follows these names and no others. What is known of those that stay, stays.
    pub(super) fn follow(&mut self, names: &[Arc<str>], now: Instant) {
        for entry in self.entries.values_mut() {
            entry.followed = false;
        }
        for name in names {
            self.entries.entry(name.clone()).or_insert_with(|| Entry::new(now)).followed = true;
        }
        self.entries.retain(|_, entry| entry.followed);
        self.due = self.entries.iter().map(|(name, entry)| (entry.next, name.clone())).collect();
    }

    /// A followed name that it is time to ask for. It is given out again only after its answer was taken in, or after
    /// the longest time between two questions.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.wake()? > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.next = now + self.most;
            self.due.insert((entry.next, name.clone()));
        }
        Some(name)
    }

    /// When [`Book::ask`] gives something out.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes in an answer.
    pub(super) fn take(&mut self, name: &Arc<str>, answer: Answer, now: Instant) -> Taken {
        let entry = self.entries.entry(name.clone()).or_insert_with(|| Entry::new(now));
        self.due.remove(&(entry.next, name.clone()));
        let failed = entry.merge(answer, now, self.least, self.most);
        if entry.followed {
            self.due.insert((entry.next, name.clone()));
        }
        if failed && entry.failures == 1 {
            Taken::Failed(entry.addresses.len())
        } else if entry.followed && entry.addresses != entry.told {
            Taken::News
        } else {
            Taken::Nothing
        }
    }

    /// Whether the last answer is still good.
    pub(super) fn is_fresh(&self, name: &str, now: Instant) -> bool {
        self.entries
            .get(name)
            .is_some_and(|entry| entry.next > now && !entry.addresses.is_empty() && entry.failures == 0)
    }

    /// The addresses of a name, which thereby are told. None if it was never found.
    pub(super) fn tell(&mut self, name: &str) -> Vec<IpAddr> {
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        entry.told.clone_from(&entry.addresses);
        entry.addresses.clone()
    }

    /// The addresses of a name, for a Plan that may not come in force: to whoever follows it they are still news.
    pub(super) fn look(&mut self, name: &str) -> Vec<IpAddr> {
        match self.entries.get(name) {
            Some(entry) if entry.followed => entry.addresses.clone(),
            _ => self.tell(name),
        }
    }

    /// Whether a name is followed and has other addresses than were told.
    pub(super) fn has_news(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.followed && entry.addresses != entry.told)
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
            addresses: Vec::new(),
            told: Vec::new(),
            next: now,
            failures: 0,
            followed: false,
        }
    }

    /// Whether there was nothing to use in it.
    fn merge(&mut self, answer: Answer, now: Instant, least: Duration, most: Duration) -> bool {
        let mut ttl = most;
        let mut certain = true;
        let mut family = |found: Found, last: &[IpAddr]| match found {
            Found::Addresses(addresses, for_long) => {
                ttl = ttl.min(for_long);
                tidy(addresses)
            }
            Found::None => Vec::new(),
            Found::Unknown => {
                certain = false;
                last.to_vec()
            }
        };
        let nothing = |found: &Found| matches!(found, Found::None | Found::Unknown);
        let failed = nothing(&answer.v4) && nothing(&answer.v6);
        let (v4, v6) = (family(answer.v4, &self.v4), family(answer.v6, &self.v6));
        if !failed {
            self.addresses = v4.iter().chain(&v6).copied().take(MAX_ADDRESSES).collect();
            (self.v4, self.v6) = (v4, v6);
        }
        let wait = if certain && !failed {
            self.failures = 0;
            ttl
        } else {
            self.failures = self.failures.saturating_add(1);
            least.saturating_mul(1 << (self.failures - 1).min(8)).min(ttl)
        };
        self.next = now + wait.clamp(least, most);
        failed
    }
}

/// Each once, in an order that does not depend on how they were sent.
fn tidy(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    for address in &mut addresses {
        *address = address.to_canonical();
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(5);
    const MOST: Duration = Duration::from_secs(60);

    fn some(addresses: &[&str], ttl: u64) -> Found {
        Found::Addresses(addresses.iter().map(|a| a.parse().unwrap()).collect(), Duration::from_secs(ttl))
    }

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn answers_one_after_another() {
        use Found::{None, Unknown};
        let name: Arc<str> = "one.example".into();
        let mut now = Instant::now();
        let mut book = Book::new(LEAST, MOST);
        book.follow(std::slice::from_ref(&name), now);
        // The answer; whether it is news; what is known then; after how many seconds it is asked again.
        let table: [(Answer, Taken, &[&str], u64); 14] = [
            (Answer { v4: Unknown, v6: Unknown }, Taken::Failed(0), &[], 5),
            (Answer { v4: None, v6: None }, Taken::Nothing, &[], 10),
            (Answer { v4: some(&["10.0.0.2", "10.0.0.1"], 30), v6: None }, Taken::News, &["10.0.0.1", "10.0.0.2"], 30),
            (
                Answer { v4: some(&["10.0.0.1", "10.0.0.2"], 30), v6: None },
                Taken::Nothing,
                &["10.0.0.1", "10.0.0.2"],
                30,
            ),
            (Answer { v4: some(&["10.0.0.1", "10.0.0.1"], 1), v6: None }, Taken::News, &["10.0.0.1"], 5),
            (Answer { v4: some(&["10.0.0.1"], 3600), v6: some(&["::2"], 40) }, Taken::News, &["10.0.0.1", "::2"], 40),
            (Answer { v4: some(&["10.0.0.3"], 9999), v6: some(&["::2"], 9999) }, Taken::News, &["10.0.0.3", "::2"], 60),
            (Answer { v4: some(&["10.0.0.4"], 60), v6: Unknown }, Taken::News, &["10.0.0.4", "::2"], 5),
            (Answer { v4: some(&["10.0.0.4"], 7), v6: Unknown }, Taken::Nothing, &["10.0.0.4", "::2"], 7),
            (Answer { v4: None, v6: some(&["::2", "::ffff:10.9.9.9"], 60) }, Taken::News, &["10.9.9.9", "::2"], 60),
            (Answer { v4: None, v6: None }, Taken::Failed(2), &["10.9.9.9", "::2"], 5),
            (Answer { v4: Unknown, v6: None }, Taken::Nothing, &["10.9.9.9", "::2"], 10),
            (Answer { v4: Unknown, v6: Unknown }, Taken::Nothing, &["10.9.9.9", "::2"], 20),
            (Answer { v4: some(&["10.0.0.1"], 20), v6: None }, Taken::News, &["10.0.0.1"], 20),
        ];
        for (i, (answer, taken, known, seconds)) in table.into_iter().enumerate() {
            assert_eq!(book.ask(now), Some(name.clone()), "{i}");
            assert_eq!(book.ask(now), Option::None, "{i}: one question at a time");
            assert_eq!(book.take(&name, answer, now), taken, "{i}");
            assert_eq!(book.has_news(&name), taken == Taken::News, "{i}");
            assert_eq!(book.tell(&name), ips(known), "{i}");
            assert!(!book.has_news(&name), "{i}");
            let next = now + Duration::from_secs(seconds);
            assert_eq!(book.wake(), Some(next), "{i}");
            now = next;
        }
    }

    #[test]
    fn a_look_leaves_news_to_the_follower() {
        let (name, now): (Arc<str>, _) = ("x".into(), Instant::now());
        let mut book = Book::new(LEAST, MOST);
        let answer = |ip| Answer { v4: some(&[ip], 30), v6: Found::None };
        book.take(&name, answer("10.0.0.1"), now);
        assert_eq!(book.look("x"), ips(&["10.0.0.1"]));
        book.follow(std::slice::from_ref(&name), now);
        assert!(!book.has_news("x"), "the first look is what the follower starts from");
        assert_eq!(book.take(&name, answer("10.0.0.2"), now), Taken::News);
        assert_eq!(book.look("x"), ips(&["10.0.0.2"]));
        assert!(book.has_news("x"));
    }

    #[test]
    fn failures_back_off_to_the_longest_time() {
        let (name, mut now): (Arc<str>, _) = ("x".into(), Instant::now());
        let mut book = Book::new(LEAST, MOST);
        book.follow(std::slice::from_ref(&name), now);
        for _ in 0..100 {
            book.take(&name, Answer { v4: Found::Unknown, v6: Found::Unknown }, now);
            now = book.wake().unwrap();
        }
        book.take(&name, Answer { v4: Found::Unknown, v6: Found::Unknown }, now);
        assert_eq!(book.wake(), Some(now + MOST));
    }

    #[test]
    fn only_what_is_followed_is_asked_for() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let now = Instant::now();
        let mut book = Book::new(LEAST, MOST);
        let answer = || Answer { v4: some(&["10.0.0.1"], 30), v6: Found::None };
        // At load a name is asked for before it is followed.
        assert_eq!(book.take(&a, answer(), now), Taken::Nothing);
        assert!(book.is_fresh("a", now) && !book.is_fresh("a", now + MOST) && !book.is_fresh("b", now));
        assert_eq!(book.wake(), None);
        assert_eq!(book.tell("a"), ips(&["10.0.0.1"]));
        book.follow(&[a.clone(), b.clone()], now);
        assert_eq!(book.ask(now), Some(b.clone()), "what is known already is not asked for");
        assert_eq!(book.ask(now), None);
        assert_eq!(book.ask(now + Duration::from_secs(30)), Some(a.clone()));
        book.follow(std::slice::from_ref(&b), now);
        assert_eq!(book.take(&a, answer(), now), Taken::Nothing, "an answer that comes too late");
        assert_eq!(book.tell("c"), ips(&[]));
    }
}
