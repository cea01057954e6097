//! Request smuggling, response splitting and desynchronisation: some eight hundred hostile, broken or merely odd messages
//! over real sockets, each with the section of RFC 9110 or 9112 that speaks of it and with what must become of it.
//!
//! The tables are text, one case a line (see `table`). `requests` and `responses` run them, each case twice: sent at once and
//! byte by byte. Whatever happens, a backend sees whole and unambiguous messages or none (`wire` reads more strictly than
//! anything in shardgate), what lies behind a refused message is nobody's request, and what a backend sends beyond its answer
//! is nobody's answer. `streams` has what takes more than one message a side.

mod backend;
mod requests;
mod responses;
mod streams;
mod table;
mod wire;
