//! `shardgate man`: one page for all commands, since nobody looks for `shardgate-run(1)`.
//!
//! Names, options and their descriptions come from the command line's own definition (clap_mangen); what it does not
//! know (signals, exit codes, files) stands here.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

const SIGNALS: [(&str, &str); 4] = [
    ("SIGHUP", "Reload: read the configuration again. With an error nothing changes."),
    ("SIGTERM", "Drain, then end. A second one ends at once."),
    ("SIGINT", "As SIGTERM."),
    ("SIGUSR1", "Reopen log files, after they were rotated."),
];

const EXIT: [(&str, &str); 5] = [
    ("0", "Done; after SIGTERM: everything drained."),
    ("1", "The configuration, or the request of explain, or the target of drain, is wrong."),
    ("2", "Wrong usage of the command line."),
    ("3", "A listener can't be bound."),
    ("4", "Anything else."),
];

const FILES: [(&str, &str); 2] = [
    (super::DEFAULT_CONFIG, "The configuration, unless --config names another."),
    (
        "/var/lib/shardgate/states.json",
        "Under systemd: what drain and ready have said, unless admin.state_file says where.",
    ),
];

/// The page, in roff.
pub(super) fn page(mut command: Command) -> io::Result<Vec<u8>> {
    command.build();
    let name = command.get_name().to_owned();
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut roff = Roff::default();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(name.as_str()), roman(" "), italic("COMMAND"), roman(" [options]")]);
    roff.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;

    let mut roff = Roff::default();
    roff.control("SH", ["COMMANDS"]);
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let usage = sub.clone().render_usage().to_string();
        roff.control("SS", [usage.trim_start_matches("Usage: ")]);
        roff.text([roman(sub.get_about().map(ToString::to_string).unwrap_or_default())]);
        for argument in sub.get_arguments().filter(|argument| argument.get_id() != "help") {
            let default: Vec<_> = argument.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
            if argument.get_action().takes_values() && !default.is_empty() {
                text = format!("{text} (default: {})", default.join(" "));
            }
            roff.control("TP", []);
            let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
            roff.text([bold(format!("{short}{argument}"))]);
            roff.text([roman(text)]);
        }
    }
    for (heading, entries) in [("SIGNALS", &SIGNALS[..]), ("EXIT STATUS", &EXIT), ("FILES", &FILES)] {
        roff.control("SH", [heading]);
        for (term, text) in entries {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*text)]);
        }
    }
    roff.to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}
