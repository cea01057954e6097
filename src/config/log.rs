//! `[log]`: what is written, how, and where.

use super::context::Context;
use super::decode::{Fields, table, text, word};
use super::tree::Value;
use crate::model::{Log, LogFormat, LogLevel, LogSink};

pub(super) const KEYS: &[&str] = &["level", "format", "access"];

pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>) -> Log {
    let Some(table) = value.and_then(|value| table(cx, value)) else { return Log::default() };
    let fields = Fields::new(cx, table, KEYS, "[log]");
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: fields.read("level", |cx, value| word(cx, value, &levels)).unwrap_or_default(),
        format: fields.read("format", |cx, value| word(cx, value, &formats)).unwrap_or_default(),
        access: fields.read("access", access).unwrap_or_default(),
    }
}

fn access(cx: &Context<'_>, value: &Value<'_>) -> Option<LogSink> {
    if let super::tree::Kind::Boolean(on) = value.kind {
        let help = if on { "write \"stdout\", or the path of a file" } else { "write \"off\"" };
        super::decode::expected_help(cx, value, "a string", Some(help.to_owned()));
        return None;
    }
    Some(match text(cx, value)? {
        "off" => LogSink::Off,
        "stdout" => LogSink::Stdout,
        path => {
            let path = cx.resolve(value.span, path);
            cx.note_missing_directory(value.span, &path);
            LogSink::File(path)
        }
    })
}
