//! The profile that release builds are laid out by (`profile/README.md`): whether they get it, and whether it knows them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn what_is_optimized_gets_the_profile() {
    let profile = format!(" -Cprofile-use={ROOT}/profile/release.profdata");
    let counts = " -Cprofile-generate=/somewhere/else".to_owned();
    for (arguments, directory, added) in [
        ("--crate-name it -C opt-level=3 -C lto", None, &profile),
        ("--crate-name it -C opt-level=3 -C lto", Some("/somewhere/else"), &counts),
        ("--crate-name it -C opt-level=3 -C lto", Some(""), &profile),
        ("--crate-name it -C debuginfo=1", None, &String::new()),
        ("--crate-name it -C debuginfo=1", Some("/somewhere/else"), &String::new()),
        ("-vV", None, &String::new()),
    ] {
        let mut wrapper = Command::new(Path::new(ROOT).join("profile/rustc"));
        wrapper.arg("echo").args(arguments.split(' ')).env_remove("SHARDGATE_COUNTS");
        let said = wrapper.envs(directory.map(|to| ("SHARDGATE_COUNTS", to))).output().expect("it runs");
        assert!(said.status.success(), "{arguments}: {said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim_end(), format!("{arguments}{added}"));
    }
}

/// With another version of the compiler or of one dependency the names of functions are others, and the compiler would go
/// without a profile and not say so.
#[test]
fn the_profile_knows_this_compiler_and_these_dependencies() {
    let made_of = std::fs::read_to_string(Path::new(ROOT).join("profile/made-of")).expect("readable");
    let (compiler, known) = made_of.split_once('\n').expect("two lines at least");
    let known: BTreeSet<_> = known.lines().map(str::to_owned).collect();
    let mut tree = Command::new(env!("CARGO"));
    tree.args("tree --locked --offline --edges normal --prefix none --format".split(' ')).arg("{p} {f}");
    let tree = tree.current_dir(ROOT).output().expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let here = format!(" ({ROOT})");
    let tree = String::from_utf8(tree.stdout).expect("UTF-8");
    let now: BTreeSet<_> =
        tree.lines().map(|line| line.trim_end_matches(" (*)").replace(&here, "").trim_end().to_owned()).collect();
    let differ: Vec<_> = known.symmetric_difference(&now).collect();
    assert!(
        differ.is_empty(),
        "the profile is for other dependencies, make it anew with benches/train.py: {differ:#?}"
    );
    let wanted = concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"), ".");
    assert!(compiler.starts_with(wanted), "the profile is of {compiler}, Cargo.toml says {wanted}; benches/train.py");
}
