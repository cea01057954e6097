//! Operators' states over restarts: one file of JSON that people can read.
//!
//! It is written whole into a file beside it, which then takes its place, so that a crash at any moment leaves the one
//! before or the one after. What can't be read is moved away with a warning, never overwritten: it says what somebody
//! wanted out of traffic. Where even that fails, nothing is written, and each answer says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::states::{Author, MAX_STATES, Said, States};
use crate::model::{Operator, Target};

/// Of the form of the file.
const VERSION: u32 = 1;

/// More than so many states can take.
const MAX_BYTES: u64 = 32 << 20;

/// Lines of the log about states of one file that mean nothing.
const MAX_WARNINGS: usize = 16;

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    /// For people.
    written: Timestamp,
    states: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    asset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    state: String,
    since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent_since: Option<Timestamp>,
}

/// Where states are kept.
#[derive(Debug, Clone)]
pub struct StateFile(PathBuf);

/// What became of the file at the start.
#[derive(Debug)]
pub struct Opened {
    /// What it says.
    pub states: States,
    /// Where to write from now on. Not there: writing would destroy what can't be read.
    pub file: Option<StateFile>,
    /// Whether the file has these states.
    pub is_saved: bool,
}

impl StateFile {
    /// Reads what is there. What is wrong with it goes to the log.
    pub fn open(path: &Path) -> Opened {
        let file = Some(Self(path.to_owned()));
        let why = match read(path) {
            Ok(None) => return Opened { states: States::default(), file, is_saved: true },
            Ok(Some(text)) => match parse(&text) {
                Ok((states, 0)) => return Opened { states, file, is_saved: true },
                Ok((states, bad)) => {
                    let file = move_away(path, &format!("{bad} states in it mean nothing")).then_some(()).and(file);
                    return Opened { states, file, is_saved: false };
                }
                Err(why) => why,
            },
            Err(error) => error.to_string(),
        };
        let file = move_away(path, &why).then_some(()).and(file);
        Opened { states: States::default(), file, is_saved: true }
    }

    /// Puts these states in its place.
    ///
    /// # Errors
    /// Of the file system; what was there before still is.
    pub fn save(&self, states: &States) -> io::Result<()> {
        let text = render(states)?;
        let mut name = self.0.as_os_str().to_owned();
        name.push(".new");
        let beside = PathBuf::from(name);
        // Made anew, so that neither a link nor a pipe that lies there is written to.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &self.0)?;
        // The name is as lasting as the bytes only when its directory is written, too.
        let directory = self.0.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// `None`: there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    // To open a pipe is to wait for somebody to write to it.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other("it is no file"));
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES { Err(io::Error::other("it is too large")) } else { Ok(Some(text)) }
}

/// What it says, and how many of its states mean nothing.
fn parse(text: &str) -> Result<(States, usize), String> {
    #[derive(Deserialize)]
    struct Loose {
        version: u32,
        states: Vec<serde_json::Value>,
    }
    let Loose { version, states: lines } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it is of version {version}, and this shardgate knows version {VERSION}"));
    }
    let mut states = States::default();
    let mut bad = 0;
    for line in lines {
        let told = line.to_string();
        match serde_json::from_value(line).map_err(|error| error.to_string()).and_then(Line::said) {
            Ok(said) if states.len() < MAX_STATES => states.say(said),
            result => {
                bad += 1;
                if bad <= MAX_WARNINGS {
                    let cause = result.err().unwrap_or_else(|| "there are too many".into());
                    tracing::warn!(state = told, cause, "a state in the state file means nothing");
                }
            }
        }
    }
    Ok((states, bad))
}

fn render(states: &States) -> io::Result<Vec<u8>> {
    let states = states.iter().map(|said| Line::new(said)).collect();
    let mut text = serde_json::to_vec_pretty(&Form { version: VERSION, written: Timestamp::now(), states })?;
    text.push(b'\n');
    Ok(text)
}

impl Line {
    fn new(said: &Said) -> Self {
        let [region, asset, backend] = said.target.parts().map(|part| part.map(|part| part.to_string()));
        let Author { who, reason, from } = said.author.clone();
        Self {
            region: region.unwrap_or_default(),
            asset,
            backend,
            state: said.state.as_str().to_owned(),
            since: said.since,
            who,
            reason,
            from,
            absent_since: said.absent_since,
        }
    }

    fn said(self) -> Result<Said, String> {
        let region = self.region.into();
        let target = match (self.asset, self.backend) {
            (None, None) => Target::Region(region),
            (Some(asset), None) => Target::Pool(asset.into(), region),
            (Some(asset), Some(backend)) => Target::Backend(asset.into(), region, backend.into()),
            (None, Some(_)) => return Err("a backend without an asset".into()),
        };
        let state = Operator::from_word(&self.state).ok_or_else(|| format!("no state is called {:?}", self.state))?;
        let author = Author { who: self.who, reason: self.reason, from: self.from };
        Ok(Said { target, state, since: self.since, author, absent_since: self.absent_since })
    }
}

/// Moves a file away that can't be read. False: it is still there, and must not be overwritten.
fn move_away(path: &Path, why: &str) -> bool {
    let (file, cause) = (path.display().to_string(), why);
    // A directory, a socket: whoever named that as the file means something else.
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() || meta.is_symlink()) {
        tracing::warn!(file, cause, "the state file can't be used: states will not survive a restart");
        return false;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", Timestamp::now().as_millisecond()));
    let to = PathBuf::from(name);
    match fs::rename(path, &to) {
        Ok(()) => {
            let moved = to.display().to_string();
            tracing::warn!(file, cause, moved, "the state file is damaged and was moved away");
            true
        }
        Err(error) => {
            tracing::warn!(file, cause, %error, "the state file is damaged and can't be moved away: states will not survive a restart");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> States {
        let mut states = States::default();
        let author = Author { who: Some("ann".into()), reason: Some("\"disks\"".into()), from: None };
        for (text, state) in [
            ("north", Operator::Drain),
            ("*/north", Operator::Maintenance),
            ("a b/north/unix:/run/x.sock", Operator::Drain),
        ] {
            let target = Target::from_text(text).expect("a target");
            let since = Timestamp::new(1_800_000_000, 0).expect("a time");
            states.say(Said { target, state, since, author: author.clone(), absent_since: None });
        }
        states
    }

    #[test]
    fn what_is_saved_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("states.json");
        let opened = StateFile::open(&path);
        assert!(opened.states.is_empty());
        let file = opened.file.expect("it can be written");
        for states in [example(), States::default(), example()] {
            file.save(&states).expect("it is written");
            assert_eq!(StateFile::open(&path).states, states);
        }
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_read_is_moved_away() {
        let good = String::from_utf8(render(&example()).expect("text")).expect("UTF-8");
        let bad_word = good.replace("maintenance", "holiday");
        for (text, left) in [
            ("", 0),
            ("{", 0),
            ("[]", 0),
            ("\u{0}", 0),
            (&good.replace("\"version\": 1", "\"version\": 2"), 0),
            (&good[..good.len() / 2], 0),
            (&bad_word, 2),
            (&good.replace("\"*\"", "7"), 2),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("states.json");
            fs::write(&path, text).expect("it is written");
            let Opened { states, file, .. } = StateFile::open(&path);
            assert_eq!((states.len(), file.is_some(), path.exists()), (left, true, false), "{text}");
            let names: Vec<_> = fs::read_dir(directory.path()).expect("a directory").flatten().collect();
            assert_eq!(fs::read_to_string(names[0].path()).expect("text"), text);
        }
    }

    #[test]
    fn what_lies_beside_it_is_not_written_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let [path, beside, victim] =
            ["states.json", "states.json.new", "victim"].map(|name| directory.path().join(name));
        fs::write(&victim, "mine").expect("it is written");
        std::os::unix::fs::symlink(&victim, &beside).expect("a link");
        StateFile(path.clone()).save(&example()).expect("it is written");
        assert_eq!(fs::read_to_string(&victim).expect("text"), "mine");
        assert_eq!(StateFile::open(&path).states, example());
    }

    #[test]
    fn what_is_no_file_stays_where_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("states.json");
        fs::create_dir(&path).expect("a directory");
        let Opened { states, file, .. } = StateFile::open(&path);
        assert!(states.is_empty() && file.is_none() && path.is_dir());
        let nowhere = StateFile(directory.path().join("no/such/states.json"));
        assert!(nowhere.save(&example()).is_err());
    }
}
