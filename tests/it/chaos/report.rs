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
    /// How late requests were sent, at most.
    pub lag: Duration,
    pub runs: Vec<Run>,
    /// When the trouble began, since the load did.
    pub began: Duration,
    pub log: Log,
}

/// What the daemon's log says.
#[derive(Default)]
pub struct Log {
    /// How long after the trouble began the backend in trouble was taken out.
    pub out: Option<Duration>,
    /// Tries that failed there.
    pub hits: usize,
    /// All complaints, and how often each was heard.
    pub complaints: BTreeMap<String, usize>,
}

impl Report {
    /// The first line of the table.
    pub fn head() -> String {
        let failed = format!("{:<16}  {:<16} {:>6} {:>5}", "GETs failed", "POSTs failed", "twice", "wrong");
        let times = format!("{:>5} {:>5} {:>6} {:>5}", "p50", "p99", "max ms", "lag");
        format!("{:<17} {:>8}  {failed} {times} {:>5} {:>6} {:>4}", "scenario", "requests", "hits", "out", "then")
    }

    /// A line of it: `<<` marks a limit that is broken, `<` one of those that another run may keep.
    pub fn line(&self) -> String {
        let (gets, posts) = (kinds(self.failed(false)), kinds(self.failed(true)));
        let failed = format!("{gets:<16}  {posts:<16} {:>6} {:>5}", self.twice(), self.wrong());
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        let times = format!("{half:>5} {most:>5} {all:>6} {:>5}", self.lag.as_millis());
        let out = self.log.out.map_or("-".to_owned(), |out| format!("{:.2}s", out.as_secs_f64()));
        let then = self.log.out.map_or("-".to_owned(), |out| {
            let failed = self.samples.iter().filter(|sample| !sample.is_good());
            failed.filter(|sample| sample.at > self.began + out).count().to_string()
        });
        let mark = match (self.faults().is_empty(), self.flukes().is_empty()) {
            (false, _) => "  <<",
            (true, false) => "  <",
            (true, true) => "",
        };
        let (name, requests, hits) = (self.name, self.samples.len(), self.log.hits);
        format!("{name:<17} {requests:>8}  {failed} {times} {hits:>5} {out:>6} {then:>4}{mark}")
    }

    /// What is beyond the limits that hold in every run.
    pub fn faults(&self) -> Vec<String> {
        let gets = self.failed(false).filter(|sample| sample.outcome != Outcome::Cut).count();
        let cuts = self.samples.iter().filter(|sample| sample.outcome == Outcome::Cut).count();
        self.beyond(&[
            ("GETs that failed before the answer began", gets, 0),
            ("answers that broke off", cuts, self.limits.cuts),
            ("POSTs that ran twice", self.twice(), 0),
            ("wrong bodies", self.wrong(), 0),
        ])
    }

    /// What is beyond the limits that depend on chance and on the machine: how many requests a backend that hangs gets
    /// before they pile up, and every time.
    pub fn flukes(&self) -> Vec<String> {
        self.beyond(&[
            ("POSTs that failed", self.failed(true).count(), self.limits.posts),
            ("ms for 99 %", self.quantile(0.99) as usize, self.limits.p99 as usize),
            ("ms at most", self.quantile(1.0) as usize, self.limits.longest as usize),
        ])
    }

    fn beyond(&self, limits: &[(&str, usize, usize)]) -> Vec<String> {
        let beyond = limits.iter().filter(|(_, is, most)| is > most);
        beyond.map(|(what, is, most)| format!("{}: {is} {what}, allowed are {most}", self.name)).collect()
    }

    fn failed(&self, is_post: bool) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.is_post == is_post && !sample.is_good())
    }

    /// POSTs that were run more than once.
    fn twice(&self) -> usize {
        let mut times = HashMap::<u32, usize>::new();
        self.runs.iter().filter(|run| run.is_post).for_each(|run| *times.entry(run.id).or_default() += 1);
        times.into_values().filter(|times| *times > 1).count()
    }

    /// Answers that are not those to their requests, requests that came to backends as others than were sent, and good
    /// answers to requests that nobody ran.
    fn wrong(&self) -> usize {
        let answers = self.samples.iter().filter(|sample| sample.outcome == Outcome::Wrong).count();
        let requests = self.runs.iter().filter(|run| !run.is_right).count();
        let ran: HashMap<_, _> = self.runs.iter().map(|run| (run.id, run.is_post)).collect();
        let unfounded = self.samples.iter().filter(|s| s.is_good() && ran.get(&s.id) != Some(&s.is_post)).count();
        answers + requests + unfounded
    }

    /// Such a share of the response times is not longer, in milliseconds.
    fn quantile(&self, share: f64) -> u64 {
        let mut times: Vec<_> = self.samples.iter().map(|sample| sample.took).collect();
        times.sort();
        let at = (times.len() as f64 * share).ceil() as usize;
        times.get(at.saturating_sub(1)).map_or(0, |time| time.as_millis() as u64)
    }
}

/// How many failed, and how.
fn kinds<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    let mut kinds = BTreeMap::<Outcome, usize>::new();
    samples.for_each(|sample| *kinds.entry(sample.outcome).or_default() += 1);
    if kinds.is_empty() {
        return "0".to_owned();
    }
    let name = |outcome: &Outcome| match outcome {
        Outcome::Status(status) => status.to_string(),
        other => format!("{other:?}").to_lowercase(),
    };
    let kinds: Vec<_> = kinds.iter().map(|(outcome, count)| format!("{count} {}", name(outcome))).collect();
    kinds.join(", ")
}

#[test]
fn what_must_not_happen_is_found() {
    let run = |id, is_post| Run { id, is_post, is_right: true };
    let sample = |id, is_post, outcome| Sample { id, is_post, at: Duration::ZERO, took: Duration::ZERO, outcome };
    let good = Report {
        name: "good",
        limits: Limits { cuts: 1, posts: 1, p99: 10, longest: 10 },
        samples: vec![sample(0, false, Outcome::Good(1)), sample(3, true, Outcome::Good(2))],
        lag: Duration::ZERO,
        runs: vec![run(0, false), run(0, false), run(3, true)],
        began: Duration::ZERO,
        log: Log::default(),
    };
    assert_eq!((good.faults(), good.flukes()), (vec![], vec![]), "a GET may run twice");
    let with = |runs: &[Run], samples: &[Sample]| {
        let (runs, samples) = ([&good.runs[..], runs].concat(), [&good.samples[..], samples].concat());
        let report = Report { runs, samples, log: Log::default(), ..good };
        [report.faults(), report.flukes()].concat()
    };
    let found = |what: &str| vec![format!("good: {what}")];
    assert_eq!(with(&[run(3, true)], &[]), found("1 POSTs that ran twice, allowed are 0"));
    assert_eq!(with(&[Run { is_right: false, ..run(4, false) }], &[]), found("1 wrong bodies, allowed are 0"));
    assert_eq!(with(&[], &[sample(5, false, Outcome::Good(1))]), found("1 wrong bodies, allowed are 0"), "unfounded");
    assert_eq!(with(&[], &[sample(5, true, Outcome::Status(502))]), Vec::<String>::new());
    let posts = [5, 6].map(|id| sample(id, true, Outcome::Status(502)));
    assert_eq!(with(&[], &posts), found("2 POSTs that failed, allowed are 1"));
    let cuts = [5, 6].map(|id| sample(id, false, Outcome::Cut));
    assert_eq!(with(&[], &cuts), found("2 answers that broke off, allowed are 1"));
    let closed = sample(5, false, Outcome::Closed);
    assert_eq!(with(&[], &[closed]), found("1 GETs that failed before the answer began, allowed are 0"));
    let late = Sample { took: Duration::from_millis(11), ..sample(0, false, Outcome::Good(1)) };
    let times = ["11 ms for 99 %, allowed are 10", "11 ms at most, allowed are 10"].map(|what| format!("good: {what}"));
    assert_eq!(with(&[], &[late]), times);
}
