//! The profile that release builds are laid out by (`profile/README.md`): whether they get it, and whether it knows them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap()
}

/// What cargo calls in place of the compiler, by the file that tells it so.
fn wrapper() -> PathBuf {
    let config = std::fs::read_to_string(root().join(".cargo/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    root().join(config["build"]["rustc-wrapper"].as_str().unwrap())
}

fn call(compiler: &Path, arguments: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(wrapper());
    command.arg(compiler).args(arguments.split(' ')).env_remove("SHARDGATE_COUNTS");
    command.envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn what_is_optimized_gets_the_profile() {
    let path = root().join("profile/release.profdata");
    assert!(std::fs::read(&path).unwrap().starts_with(b"\xfflprofi\x81"), "what LLVM's indexed profiles begin with");
    let profile = format!(" -Cllvm-args=-no-pgo-warn-mismatch -Cprofile-use={}", path.display());
    let counts = " -Cprofile-generate=/somewhere/else".to_owned();
    let nothing = String::new();
    let release = "--crate-name it -C opt-level=3 -C lto";
    for (arguments, directory, added) in [
        (release, None, &profile),
        (release, Some("/somewhere/else"), &counts),
        (release, Some(""), &profile),
        ("--crate-name it -C debuginfo=1", None, &nothing),
        ("--crate-name it -C debuginfo=1", Some("/somewhere/else"), &nothing),
        ("--crate-name it -C opt-level=3 -Cprofile-generate=/tmp", None, &nothing),
        ("--crate-name it -C opt-level=3 -C profile-use=/my/own", None, &nothing),
        ("--crate-name it -C opt-level=3 -Cinstrument-coverage", None, &nothing),
        ("--crate-name it -C opt-level=3 -o /profile-use/it", None, &profile),
        ("-vV", None, &nothing),
    ] {
        let environment = directory.map(|to| ("SHARDGATE_COUNTS", to));
        let said = call(Path::new("echo"), arguments, environment.as_slice());
        assert!(said.status.success() && said.stderr.is_empty(), "{arguments}: {said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim_end(), format!("{arguments}{added}"));
    }
}

#[test]
fn another_compiler_is_told_of() {
    let made_of = std::fs::read_to_string(root().join("profile/made-of")).unwrap();
    let (compiler, _) = made_of.split_once('\n').unwrap();
    for (version, told) in [
        (compiler, ""),
        ("rustc 9.9.9 (of the future)", "this is rustc 9.9.9 (of the future)"),
        ("clippy 0.1.9 (in the place of a compiler)", ""),
    ] {
        let compiler = root().join("tests/it/support/compiler.sh");
        let said = call(&compiler, "--crate-name shardgate -C opt-level=3", &[("VERSION", version)]);
        assert!(said.status.success(), "{said:?}");
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(words.contains(told) && words.is_empty() == told.is_empty(), "{version}: {words}");
    }
}

/// With another version of one dependency the names of functions are others, and the compiler would go without a profile and not
/// say so.
#[test]
fn the_profile_is_of_these_dependencies() {
    let made_of = std::fs::read_to_string(root().join("profile/made-of")).unwrap();
    let (compiler, known) = made_of.split_once('\n').expect("two lines at least");
    let known: BTreeSet<_> = known.lines().map(str::to_owned).collect();
    let mut tree = Command::new(env!("CARGO"));
    // The target that it was made on, wherever this runs.
    tree.args("tree --color never --locked --offline --target x86_64-unknown-linux-gnu".split(' '));
    tree.args("--edges normal --prefix none --format".split(' ')).arg("{p} {f}");
    let tree = tree.current_dir(root()).output().expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let here = format!(" ({})", root().display());
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
