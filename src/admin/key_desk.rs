//! Keys on their way into the configuration: the texts that new keys are to sign, and additions that wait for a second
//! word. What waits is kept in the state directory of the admin repository's master; it is no right yet.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{DataDir, write_whole};
use crate::model::time::Stamp;
use crate::model::{Fingerprint, UserName};

/// A text that was given out is to be signed within this time.
const CHALLENGE: Duration = Duration::from_secs(600);
/// Users with such a text at once; the oldest make way.
const CHALLENGES: usize = 10_000;
/// What waits longer for a second word is forgotten.
const WAITING: Duration = Duration::from_secs(7 * 86_400);
/// Additions of one user, and of all, that may wait at once.
const OF_ONE: usize = 5;
const OF_ALL: usize = 1_000;

/// An addition that waits for a second word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What whoever approves types.
    pub code: String,
    pub user: String,
    /// The key that asked; it cannot approve.
    pub by: String,
    /// The last part of the new file's name.
    pub name: String,
    /// The key's line, with its end.
    pub line: String,
    pub fingerprint: String,
    /// When it was asked, as [`Stamp`] spells it.
    pub since: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    version: u32,
    waiting: Vec<Waiting>,
}

/// One text that a new key is to sign.
struct Challenge {
    key: Fingerprint,
    text: String,
    until: Instant,
}

/// Why an addition cannot wait here.
#[derive(Debug, thiserror::Error)]
pub enum CannotWait {
    #[error("{OF_ONE} keys of yours wait for approval already")]
    TooMany,
    #[error("too many keys wait for approval on this server")]
    Full,
    #[error("keep what waits for approval")]
    Io(#[from] io::Error),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct KeyDesk {
    file: Arc<PathBuf>,
    challenges: Arc<Mutex<HashMap<UserName, Challenge>>>,
    /// Held while the file is read, changed and written.
    turn: Arc<Mutex<()>>,
}

impl KeyDesk {
    pub fn new(data: &DataDir) -> Self {
        Self {
            file: Arc::new(data.state().join("keys-waiting.json")),
            challenges: Arc::default(),
            turn: Arc::default(),
        }
    }

    fn challenges(&self) -> MutexGuard<'_, HashMap<UserName, Challenge>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new text for the user's new key to sign; an earlier one counts no more.
    pub fn challenge(&self, user: &UserName, key: &Fingerprint, now: Instant) -> String {
        let text = format!("gitmesh-key {user} {key} {}", random_code(16));
        let mut challenges = self.challenges();
        challenges.retain(|_, challenge| challenge.until > now);
        if challenges.len() >= CHALLENGES
            && let Some(oldest) = challenges.iter().min_by_key(|(_, c)| c.until).map(|(user, _)| user.clone())
        {
            challenges.remove(&oldest);
        }
        challenges.insert(user.clone(), Challenge { key: key.clone(), text: text.clone(), until: now + CHALLENGE });
        text
    }

    /// The text that this key of the user is to sign, if one was given out and still counts.
    pub fn to_sign(&self, user: &UserName, key: &Fingerprint, now: Instant) -> Option<String> {
        let challenges = self.challenges();
        let challenge = challenges.get(user).filter(|c| c.key == *key && c.until > now)?;
        Some(challenge.text.clone())
    }

    /// The text has served.
    pub fn signed(&self, user: &UserName) {
        self.challenges().remove(user);
    }

    fn read(&self) -> io::Result<File> {
        let text = match fs::read(&*self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
            text => text?,
        };
        let mut file: File = serde_json::from_slice(&text).map_err(io::Error::other)?;
        let oldest = Stamp::new(SystemTime::now().checked_sub(WAITING).unwrap_or(SystemTime::UNIX_EPOCH));
        file.waiting.retain(|one| Stamp::parse(&one.since).is_some_and(|since| since >= oldest));
        Ok(file)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Waiting>) -> T) -> io::Result<T> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.read()?;
        let done = change(&mut file.waiting);
        file.version = 1;
        write_whole(&self.file, &serde_json::to_vec(&file).map_err(io::Error::other)?, 0o600)?;
        Ok(done)
    }

    /// What waits, older ones first.
    pub fn waiting(&self) -> io::Result<Vec<Waiting>> {
        Ok(self.read()?.waiting)
    }

    /// Has an addition wait, and tells its code. One that waits already keeps its code and takes the newer words.
    pub fn wait(&self, mut new: Waiting) -> Result<String, CannotWait> {
        self.change(|waiting| {
            let same = |one: &&mut Waiting| one.user == new.user && one.fingerprint == new.fingerprint;
            if let Some(old) = waiting.iter_mut().find(same) {
                new.code.clone_from(&old.code);
                let code = new.code.clone();
                *old = new;
                return Ok(code);
            }
            if waiting.iter().filter(|one| one.user == new.user).count() >= OF_ONE {
                return Err(CannotWait::TooMany);
            }
            if waiting.len() >= OF_ALL {
                return Err(CannotWait::Full);
            }
            new.code = random_code(8);
            waiting.push(new.clone());
            Ok(new.code)
        })?
    }

    /// It waits no more: it has been approved, or rejected.
    pub fn done(&self, code: &str) -> io::Result<()> {
        self.change(|waiting| waiting.retain(|one| one.code != code))
    }
}

/// Letters and digits that are not taken for one another.
fn random_code(length: usize) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
    (0..length).map(|_| char::from(DIGITS[usize::from(rand::random::<u8>()) % DIGITS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> (tempfile::TempDir, KeyDesk) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().to_owned());
        data.create().unwrap();
        (dir, KeyDesk::new(&data))
    }

    fn waiting(user: &str, key: &str) -> Waiting {
        let text = |text: &str| text.to_owned();
        let since = Stamp::new(SystemTime::now()).to_string();
        Waiting {
            code: String::new(),
            user: text(user),
            by: text("SHA256:old"),
            name: text("x"),
            line: text("ssh-ed25519 AAAA"),
            fingerprint: text(key),
            since,
        }
    }

    #[test]
    fn a_text_serves_one_key_of_one_user_for_a_while() {
        let (_dir, desk) = desk();
        let (alice, bob) = (UserName::new("alice").unwrap(), UserName::new("bob").unwrap());
        let (one, two) = (Fingerprint::new("SHA256:1".to_owned()), Fingerprint::new("SHA256:2".to_owned()));
        let now = Instant::now();
        let text = desk.challenge(&alice, &one, now);
        assert!(text.starts_with("gitmesh-key alice SHA256:1 "), "{text}");
        assert_eq!(desk.to_sign(&alice, &one, now), Some(text.clone()));
        assert_eq!((desk.to_sign(&alice, &two, now), desk.to_sign(&bob, &one, now)), (None, None));
        assert_eq!(desk.to_sign(&alice, &one, now + CHALLENGE), None);
        assert_ne!(desk.challenge(&alice, &one, now), text, "each time another");
        desk.signed(&alice);
        assert_eq!(desk.to_sign(&alice, &one, now), None);
    }

    #[test]
    fn what_waits_is_bounded_and_survives() {
        let (dir, desk) = desk();
        let code = desk.wait(waiting("alice", "SHA256:1")).unwrap();
        assert_eq!(code.len(), 8);
        assert_eq!(desk.wait(waiting("alice", "SHA256:1")).unwrap(), code, "asked again");
        for n in 2..=OF_ONE {
            desk.wait(waiting("alice", &format!("SHA256:{n}"))).unwrap();
        }
        assert!(matches!(desk.wait(waiting("alice", "SHA256:9")), Err(CannotWait::TooMany)));
        let again = KeyDesk::new(&DataDir::new(dir.path().to_owned()));
        assert_eq!(again.waiting().unwrap().len(), OF_ONE);
        again.done(&code).unwrap();
        assert!(desk.waiting().unwrap().iter().all(|one| one.code != code));
        let old = Waiting { since: "2020-01-01_00:00:00".to_owned(), ..waiting("bob", "SHA256:1") };
        let forgotten = desk.wait(old).unwrap();
        assert!(desk.waiting().unwrap().iter().all(|one| one.code != forgotten));
    }
}
