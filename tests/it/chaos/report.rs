//! What came of a scenario: a line of the table, and whether it kept to its limits.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::backends::Run;
use super::load::{Outcome, Sample};

/// What a scenario may cost at most. These hold for all: no POST runs twice, no answer is wrong, no GET fails, unless
/// the answer had begun (a cut).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Answers that break off.
    pub cuts: usize,
    /// POSTs that fail.
    pub posts: usize,
    /// Of all response times, in milliseconds: 99 of 100, and the longest.
    pub p99: u64,
    pub longest: u64,
}

/// For what is not limited.
pub const ANY: usize = usize::MAX;
/// The same, for times: no more than a client's patience.
pub const EVER: u64 = 9_000;

/// What is known when a scenario is over.
pub struct Report {
    pub name: &'static str,
    pub limits: Limits,
    pub samples: Vec<Sample>,
    pub runs: Vec<Run>,
    /// When the trouble began, and when the backend was taken out, since the load began.
    pub began: Duration,
    pub out: Option<Duration>,
    /// What the daemon complained of, and how often.
    pub complaints: BTreeMap<String, usize>,
}

impl Report {
    pub const HEAD: &str = "scenario          requests  GETs failed         POSTs failed        twice wrong   p50   p99   max ms  \
                            out after  failed then";

    fn failed(&self, is_post: bool) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.is_post == is_post && !sample.is_good())
    }

    fn cuts(&self) -> usize {
        self.samples.iter().filter(|sample| sample.outcome == Outcome::Cut).count()
    }

    /// POSTs that were run more than once.
    fn twice(&self) -> usize {
        let mut times = HashMap::<u32, usize>::new();
        self.runs.iter().filter(|run| run.is_post).for_each(|run| *times.entry(run.id).or_default() += 1);
        times.into_values().filter(|times| *times > 1).count()
    }

    /// Answers that are not those to their requests, requests that came to backends as others than were sent, and good
    /// answers to POSTs that nobody ran.
    fn wrong(&self) -> usize {
        let answers = self.samples.iter().filter(|sample| sample.outcome == Outcome::Wrong).count();
        let requests = self.runs.iter().filter(|run| !run.is_right).count();
        let ran: HashMap<_, _> = self.runs.iter().map(|run| (run.id, run.is_post)).collect();
        let unfounded = self.samples.iter().filter(|s| s.is_good() && ran.get(&s.id) != Some(&s.is_post)).count();
        answers + requests + unfounded
    }

    /// Such a share of the response times is not longer.
    fn quantile(&self, share: f64) -> u64 {
        let mut times: Vec<_> = self.samples.iter().map(|sample| sample.took).collect();
        times.sort();
        let at = (times.len() as f64 * share).ceil() as usize;
        times.get(at.saturating_sub(1)).map_or(0, |time| time.as_millis() as u64)
    }

    /// What is beyond the limits.
    pub fn faults(&self) -> Vec<String> {
        let limits = self.limits;
        let gets = self.failed(false).filter(|sample| sample.outcome != Outcome::Cut).count();
        [
            ("GETs that failed before the answer began", gets, 0),
            ("answers that broke off", self.cuts(), limits.cuts),
            ("POSTs that failed", self.failed(true).count(), limits.posts),
            ("POSTs that ran twice", self.twice(), 0),
            ("wrong bodies", self.wrong(), 0),
            ("ms for 99 %", self.quantile(0.99) as usize, limits.p99 as usize),
            ("ms at most", self.quantile(1.0) as usize, limits.longest as usize),
        ]
        .into_iter()
        .filter(|(_, is, most)| is > most)
        .map(|(what, is, most)| format!("{}: {is} {what}, allowed are {most}", self.name))
        .collect()
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let out =
            self.out.map_or("-".to_owned(), |out| format!("{:.2} s", out.saturating_sub(self.began).as_secs_f64()));
        let after = self.out.map_or("-".to_owned(), |out| {
            self.samples.iter().filter(|sample| !sample.is_good() && sample.at > out).count().to_string()
        });
        format!(
            "{:<17} {:>8}  {:<18}  {:<18} {:>6} {:>5} {:>5} {:>5} {:>8}  {out:>9}  {after:>11}{}",
            self.name,
            self.samples.len(),
            kinds(self.failed(false)),
            kinds(self.failed(true)),
            self.twice(),
            self.wrong(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0),
            if self.faults().is_empty() { "" } else { "  <<" },
        )
    }
}

/// How many failed, and how.
fn kinds<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    let mut kinds = BTreeMap::<Outcome, usize>::new();
    samples.for_each(|sample| *kinds.entry(sample.outcome).or_default() += 1);
    let total: usize = kinds.values().sum();
    let name = |outcome: &Outcome| match outcome {
        Outcome::Status(status) => status.to_string(),
        other => format!("{other:?}").to_lowercase(),
    };
    let kinds: Vec<_> = kinds.iter().map(|(outcome, count)| format!("{count} {}", name(outcome))).collect();
    if total == 0 { "0".to_owned() } else { kinds.join(", ") }
}
