//! What the documents show is true: configurations in them pass `check`, files they link to exist, commands they name
//! are there.

use std::path::{Path, PathBuf};

use crate::support::proxy::run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let found: Vec<_> = ["*.md", "docs/**/*.md"]
        .iter()
        .flat_map(|pattern| glob::glob(root().join(pattern).to_str().unwrap()).unwrap().map(Result::unwrap))
        .collect();
    assert!(found.len() > 4, "{found:?}");
    found
}

/// Code blocks in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn configurations_in_the_readme_are_valid() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = blocks(&readme, "toml");
    assert_eq!(blocks.len(), 2);
    for text in blocks {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shardgate.toml");
        std::fs::write(&file, &text).unwrap();
        let (code, _, err) = run(&["check", "-c", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}\n{err}");
    }
}

#[test]
fn links_lead_to_files() {
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = document.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(file.exists(), "{}: a link to {target}", document.display());
        }
    }
}

#[test]
fn commands_in_the_documents_exist() {
    let help = run(&["--help"]).1;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for block in blocks(&text, "sh") {
            for line in block.lines().filter_map(|l| l.strip_prefix("shardgate ")) {
                let command = line.split_whitespace().next().unwrap();
                assert!(help.contains(&format!("\n  {command} ")), "{}: shardgate {command}", document.display());
            }
        }
    }
}

#[test]
fn the_image_is_made_of_what_there_is() {
    let text = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let ignored = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    let mut copied = 0;
    for line in text.lines().filter_map(|l| l.strip_prefix("COPY ")).filter(|l| !l.starts_with("--from")) {
        let mut sources: Vec<_> = line.split_whitespace().collect();
        sources.pop();
        for source in sources {
            assert!(root().join(source).exists(), "COPY of {source}, which is not there");
            assert!(ignored.contains(&format!("\n!{source}\n")), "{source} is left out by .dockerignore");
            copied += 1;
        }
    }
    assert!(copied > 3);
    assert!(text.contains("\nUSER 65532"), "it must not run as root");
}
