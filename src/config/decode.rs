//! From values to types: small readers that note a fault and go on.
//!
//! serde stops at the first error; a user with five mistakes would need five attempts. So each section reads its fields
//! one by one with these. A reader that gives `None` has noted why, and its caller carries on with the next field: a
//! section is always read to its end, and `load` fails if anything was noted.

use std::ops::RangeInclusive;

use super::context::Context;
use super::diagnostic::Fault;
use super::hint::suggest;
use super::source::Span;
use super::tree::{Kind, Table, Value};

/// A table whose keys are known beforehand.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a, 'i, 'e> {
    cx: &'a Context<'e>,
    table: &'a Table<'i>,
    known: &'static [&'static str],
}

impl<'a, 'i, 'e> Fields<'a, 'i, 'e> {
    /// Notes every key that is not in `known`. `section` is how the file names the table: `[server]`.
    pub(super) fn new(
        cx: &'a Context<'e>,
        table: &'a Table<'i>,
        known: &'static [&'static str],
        section: &str,
    ) -> Self {
        for entry in &table.entries {
            if !known.contains(&entry.key.as_ref()) {
                unknown_key(cx, entry.span, &entry.key, known, section);
            }
        }
        Self { cx, table, known }
    }

    /// The value of a key, if the file has it.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value<'i>> {
        debug_assert!(self.known.contains(&key), "`{key}` is read but not known");
        self.table.get(key)
    }

    /// The value of a key through a reader; `None` if it is absent or faulty.
    pub(super) fn read<T>(
        &self,
        key: &str,
        reader: impl FnOnce(&Context<'e>, &'a Value<'i>) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|value| reader(self.cx, value))
    }

    /// Whether an unknown key was probably meant to be this one, so that it is not missed as well.
    pub(super) fn is_misspelt(&self, key: &str) -> bool {
        let mut unknown = self.table.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_ref()));
        unknown.any(|entry| super::hint::nearest(&entry.key, self.known.iter().copied()) == Some(key))
    }

    /// Where a key stands.
    pub(super) fn span(&self, key: &str) -> Option<Span> {
        self.table.entry(key).map(|entry| entry.span)
    }
}

/// A value of the design that this version cannot serve yet.
pub(super) fn not_supported(cx: &Context<'_>, span: Span, what: &str) {
    cx.note(Fault::error(span, format!("{what} is not supported yet")).label("not supported yet"));
}

/// Every table of the file with its keys, to say where a misplaced key belongs.
static SECTIONS: &[(&str, &[&str])] = &[
    ("the top of the file, before the first [table]", &["include"]),
    ("[server]", super::server::KEYS),
    ("[[listeners]]", super::listeners::KEYS),
    ("[admin]", super::admin::KEYS),
    ("[[routes]]", super::routes::KEYS),
    ("[pools.ASSET.REGION]", &["primaries", "replicas"]),
    ("[limits]", super::limits::KEYS),
    ("[log]", super::log::KEYS),
    ("[metrics]", super::metrics::KEYS),
    ("[defaults]", super::pools::settings::KEYS),
];

/// The tables in a pool and in [defaults].
static IN_POOLS: &[(&str, &[&str])] = &[
    ("health", super::pools::settings::HEALTH_KEYS),
    ("agent", super::pools::agent::KEYS),
    ("timeouts", super::pools::settings::TIMEOUTS_KEYS),
    ("retry", super::pools::retry::KEYS),
    ("tls", super::pools::tls::KEYS),
    ("outlier", super::pools::outlier::KEYS),
    ("slow_start", super::pools::outlier::SLOW_START_KEYS),
    ("limits", super::pools::settings::LIMITS_KEYS),
    ("failover", super::pools::settings::FAILOVER_KEYS),
];

/// What other proxies call what is found elsewhere here.
static ELSEWHERE: &[(&str, &str)] = &[
    ("backup", "a backend that helps out stands in the pool's `replicas`"),
    ("client_max_body_size", "`max_body_bytes`, in [limits] or in a route"),
    ("port", "an address has its port with it, such as `bind = \"0.0.0.0:8080\"` in [[listeners]]"),
    ("proxy_read_timeout", "`timeouts = { response = \"10s\" }`, in [defaults], a pool or a route"),
    ("server_name", "`hosts` of a route"),
];

fn unknown_key(cx: &Context<'_>, span: Span, key: &str, known: &'static [&'static str], section: &str) {
    let fault = Fault::error(span, format!("unknown key `{key}` in {section}"));
    let near = super::hint::nearest(key, known.iter().copied());
    let is_pool = section.starts_with("[pools") || section == "[defaults]";
    let inside = IN_POOLS.iter().find(|(_, keys)| is_pool && keys.contains(&key));
    let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.contains(&key));
    let other = ELSEWHERE.iter().find(|(name, _)| *name == key && !section.ends_with(" table"));
    let help = match (near, elsewhere) {
        _ if let Some((table, _)) = inside => format!("`{key}` belongs into a table: `{table} = {{ {key} = … }}`"),
        _ if let Some((_, here)) = other => (*here).to_owned(),
        (None, Some((home, _))) if *home != section => format!("`{key}` belongs to {home}"),
        (Some(near), _) => format!("did you mean `{near}`?"),
        _ => suggest(key, known.iter().copied(), "known keys"),
    };
    cx.note(fault.help(help));
}

/// A value of the wrong type.
pub(super) fn expected(cx: &Context<'_>, value: &Value<'_>, what: &str) {
    expected_help(cx, value, what, None);
}

pub(super) fn expected_help(cx: &Context<'_>, value: &Value<'_>, what: &str, help: Option<String>) {
    if matches!(value.kind, Kind::Broken) {
        return;
    }
    let mut fault = Fault::error(value.span, format!("expected {what}, found {}", value.type_name()));
    if let Some(help) = help {
        fault = fault.help(help);
    }
    cx.note(fault);
}

/// Text. A number or a boolean gets the hint to quote it.
pub(super) fn string<'a>(cx: &Context<'_>, value: &'a Value<'_>) -> Option<&'a str> {
    match &value.kind {
        Kind::String(text) => return Some(text),
        Kind::Integer(n) => expected_help(cx, value, "a string", Some(format!("quote it: \"{n}\""))),
        Kind::Float(n) => expected_help(cx, value, "a string", Some(format!("quote it: \"{n}\""))),
        Kind::Boolean(b) => expected_help(cx, value, "a string", Some(format!("quote it: \"{b}\""))),
        _ => expected(cx, value, "a string"),
    }
    None
}

/// Text that is not empty.
pub(super) fn text<'a>(cx: &Context<'_>, value: &'a Value<'_>) -> Option<&'a str> {
    let text = string(cx, value)?;
    if text.is_empty() {
        cx.note(Fault::error(value.span, "this must not be empty"));
        return None;
    }
    Some(text)
}

/// `true` or `false`.
pub(super) fn boolean(cx: &Context<'_>, value: &Value<'_>) -> Option<bool> {
    match &value.kind {
        Kind::Boolean(boolean) => return Some(*boolean),
        Kind::String(text) if text == "true" || text == "false" => {
            expected_help(cx, value, "a boolean", Some(format!("without quotes: {text}")));
        }
        _ => expected_help(cx, value, "a boolean", Some("true or false".to_owned())),
    }
    None
}

/// A whole number in a range.
pub(super) fn integer<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl for<'e, 'a, 'i> FnOnce(&Context<'e>, &'a Value<'i>) -> Option<T> {
    move |cx, value| {
        let (low, high) = (*range.start(), *range.end());
        let Kind::Integer(number) = value.kind else {
            let help = match &value.kind {
                Kind::String(_) if cx.is_from_environment(value.span) => {
                    "`${NAME}` stands in strings only: write the number".to_owned()
                }
                Kind::String(text) if text.parse::<u64>().is_ok() => format!("without quotes: {text}"),
                _ => format!("a whole number from {low} to {high}"),
            };
            expected_help(cx, value, "an integer", Some(help));
            return None;
        };
        let number = u64::try_from(number).ok().filter(|number| range.contains(number));
        let fitting = number.and_then(|number| T::try_from(number).ok());
        if fitting.is_none() {
            cx.note(Fault::error(value.span, format!("expected a whole number from {low} to {high}")));
        }
        fitting
    }
}

/// A number in a range, whole or not.
pub(super) fn float(cx: &Context<'_>, value: &Value<'_>, range: RangeInclusive<f64>) -> Option<f64> {
    let number = match value.kind {
        Kind::Float(number) => number,
        Kind::Integer(number) => number as f64,
        _ => {
            expected_help(cx, value, "a number", Some(format!("from {} to {}", range.start(), range.end())));
            return None;
        }
    };
    if range.contains(&number) {
        return Some(number);
    }
    cx.note(Fault::error(value.span, format!("expected a number from {} to {}", range.start(), range.end())));
    None
}

/// One of a few words.
pub(super) fn word<T: Clone>(cx: &Context<'_>, value: &Value<'_>, words: &[(&'static str, T)]) -> Option<T> {
    let text = string(cx, value)?;
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let known = words.iter().map(|(word, _)| *word);
        cx.note(Fault::error(value.span, format!("unknown word `{text}`")).help(suggest(text, known, "one of")));
    }
    found.map(|(_, meaning)| meaning.clone())
}

/// A list, each element through a reader; elements that are faulty are left out.
pub(super) fn list<'a, 'i, 'e, T>(
    cx: &Context<'e>,
    value: &'a Value<'i>,
    mut reader: impl FnMut(&Context<'e>, &'a Value<'i>) -> Option<T>,
) -> Option<Vec<T>> {
    let Kind::Array(items) = &value.kind else {
        let help = match &value.kind {
            Kind::String(text) => Some(format!("in brackets: [{text:?}]")),
            Kind::Table(_) => Some("a list of tables has headers in double brackets: [[NAME]]".to_owned()),
            _ => None,
        };
        expected_help(cx, value, "a list", help);
        return None;
    };
    Some(items.iter().filter_map(|item| reader(cx, item)).collect())
}

/// A table.
pub(super) fn table<'a, 'i>(cx: &Context<'_>, value: &'a Value<'i>) -> Option<&'a Table<'i>> {
    match &value.kind {
        Kind::Table(table) => Some(table),
        _ => {
            not_a_table(cx, value);
            None
        }
    }
}

/// A table, to be consumed.
pub(super) fn into_table<'i>(cx: &Context<'_>, value: Value<'i>) -> Option<Table<'i>> {
    match value.kind {
        Kind::Table(table) => Some(table),
        kind => {
            not_a_table(cx, &Value { kind, ..value });
            None
        }
    }
}

fn not_a_table(cx: &Context<'_>, value: &Value<'_>) {
    match &value.kind {
        Kind::Array(items) if items.iter().all(|item| matches!(item.kind, Kind::Table(_))) => {
            let help = "the header of a single table has single brackets: [NAME]".to_owned();
            expected_help(cx, value, "a table", Some(help));
        }
        _ => expected(cx, value, "a table"),
    }
}
