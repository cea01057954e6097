//! A token for the demo's admin address, so that `drain` and `ready` can be tried, too: over TCP nothing writes without one.
//! It lies in a file that only its owner can read, which goes when the demo ends (unless that is killed).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{self, PathBuf};

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

/// The file. It goes when this is dropped.
pub(in crate::cli) struct Token(PathBuf);

impl Token {
    pub(super) fn new() -> io::Result<Self> {
        // A name that nobody can foresee, and so take.
        let path = path::absolute(std::env::temp_dir())?.join(format!("shardgate-demo-{}", random()?));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let made = Self(path);
        file.write_all(random()?.as_bytes())?;
        Ok(made)
    }

    /// Where it is; `None`: at a path that a configuration can't name as it is.
    pub(super) fn path(&self) -> Option<&str> {
        self.0.to_str().filter(|path| !path.contains(|c: char| c.is_control() || c == '$'))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // Nothing depends on it.
    }
}

fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(HEXLOWER.encode(&bytes))
}
