//! What a user sees when a configuration is wrong: every file of `tests/config/bad` against the text beside it, every file
//! of `tests/config/good` and of `config` without an error.
//!
//! `SHARDGATE_BLESS=1` writes the texts anew; read the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};

use shardgate::config;

/// The TOML files of a directory, in the order of their names. Included ones stand in directories of their own.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

/// What `load` says of a file: its errors, or else its warnings.
fn said(path: &Path) -> (bool, String) {
    match config::load(path) {
        Ok(loaded) => (true, loaded.warnings.render(false)),
        Err(errors) => (false, errors.render(false)),
    }
}

/// Compares with the text beside the file, or writes it.
fn differs(path: &Path, text: &str) -> Option<String> {
    let beside = path.with_extension("stderr");
    if std::env::var_os("SHARDGATE_BLESS").is_some() {
        if text.is_empty() {
            let _ = fs::remove_file(&beside);
        } else {
            fs::write(&beside, text).expect("the text can be written");
        }
        return None;
    }
    let expected = fs::read_to_string(&beside).unwrap_or_default();
    (expected != text).then(|| format!("{}: expected\n{expected}\nfound\n{text}", path.display()))
}

#[test]
fn every_bad_file_is_refused_with_these_words() {
    let paths = files("tests/config/bad");
    let mut faults = Vec::new();
    for path in &paths {
        let (loaded, text) = said(path);
        if loaded {
            faults.push(format!("{} was loaded", path.display()));
        }
        faults.extend(differs(path, &text));
    }
    assert!(paths.len() >= 45, "{} files", paths.len());
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn every_good_file_loads_with_these_warnings() {
    let paths = files("tests/config/good");
    let mut faults = Vec::new();
    for path in &paths {
        let (loaded, text) = said(path);
        if !loaded {
            faults.push(format!("{} was refused:\n{text}", path.display()));
        }
        faults.extend(differs(path, &text));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn every_example_loads() {
    let paths = files("config");
    assert!(paths.len() >= 3, "{} examples", paths.len());
    for path in &paths {
        let (loaded, text) = said(path);
        assert!(loaded && text.is_empty(), "{}:\n{text}", path.display());
    }
}

#[test]
fn a_file_that_is_not_there() {
    let errors = config::load(Path::new("tests/config/nowhere.toml")).expect_err("no such file").to_string();
    assert!(errors.contains("cannot read tests/config/nowhere.toml: no such file or directory"), "{errors}");
}

#[test]
fn every_place_is_told() {
    let errors = config::load(Path::new("tests/config/bad/many-at-once.toml")).expect_err("a bad file");
    assert!(errors.len() >= 5);
    for error in &errors {
        assert!(error.line().is_some() && error.path() == "tests/config/bad/many-at-once.toml", "{error:?}");
    }
}
