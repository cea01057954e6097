//! A token for the demo's admin address, so that `drain` and `ready` can be tried, too: over TCP nothing writes without one.
//! It lies in a file that only its owner can read, for as long as the demo runs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

/// The file. It goes when this is dropped.
pub(in crate::cli) struct Token(PathBuf);

impl Token {
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 16];
        SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
        let token = HEXLOWER.encode(&random);
        // Never a file that is there already: it may be somebody else's.
        let path = std::env::temp_dir().join(format!("shardgate-demo-{}", std::process::id()));
        let _ = fs::remove_file(&path); // Of a demo that was killed; another user's stays, and is an error below.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let made = Self(path);
        file.write_all(token.as_bytes())?;
        Ok(made)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // Nothing depends on it.
    }
}
