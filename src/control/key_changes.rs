//! How `keys` changes a user's keys: what is refused, what must be proved or approved first, and the commit.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use tokio::io::AsyncRead;

use super::keys::Order;
use super::typed::typed;
use super::{Control, Reply};
use crate::admin::{ADMIN_REPO, CannotWait, Change, Committed, Denial, Waiting};
use crate::model::time::{Stamp, rfc3339};
use crate::model::{Actor, Fingerprint, UserName};
use crate::policy::{
    AddressList, Edits, KeyProblem, NAMESPACE, Owner, PublicKey, SIGNATURE_BEGINS, UserKey, dated, is_key_name,
    key_type, new_key_file, parse_public_key, user_keys, verify_proof, without,
};

/// A key and a signature, in bytes; an RSA key of 16,384 bits with its signature needs 8 KiB.
const INPUT_MAX: usize = 64 << 10;
/// Keys of one user.
const KEYS_MAX: usize = 50;
const COMMENT_MAX: usize = 200;

type Files = BTreeMap<String, Vec<u8>>;

/// A key that is to be added, once everything about it is known.
#[derive(Clone)]
struct New {
    user: UserName,
    name: String,
    key: PublicKey,
    line: String,
}

impl New {
    fn end(&self) -> String {
        self.key.options.expires.map_or(String::new(), |at| format!(", expires {}", rfc3339(at.moment())))
    }

    /// The commit's message; `how` tells what else is to be known of it.
    fn commit(&self, files: &Files, how: &str) -> Result<(String, Change), Reply> {
        let Self { user, name, key, line } = self;
        let path = new_key_file(files, user, name);
        let own = user_keys(files, Some(user));
        if files.contains_key(&path) || own.iter().any(|key| key.name() == name) {
            let help = format!("keys remove {name}; or give the new one another name");
            return Err(taken(format!("a key of '{user}' is called '{name}' already"), help));
        }
        if own.len() >= KEYS_MAX {
            return Err(Reply::fail(1, format!("FATAL: '{user}' has {KEYS_MAX} keys; remove some first")));
        }
        let message =
            format!("keys add: {user}@{name}\n\n{} {}{}\n{how}\n", key.algorithm, key.fingerprint, self.end());
        let files = [(path.clone(), Some(format!("{line}\n").into_bytes()))].into();
        Ok((path, Change { files, message }))
    }
}

fn refusal(code: &'static str, first: String, help: String) -> Reply {
    Reply::denied(&Denial { first: format!("FATAL: {first}"), you: None, rule: None, help, code })
}

fn taken(first: String, help: String) -> Reply {
    refusal(Denial::KEY_TAKEN, first, help)
}

/// What a key is called if nobody says so: the machine in its comment, `laptop` of `alice@laptop.lan`.
fn name_in(comment: &str) -> Option<&str> {
    let machine = comment.rsplit_once('@')?.1.split('.').next()?;
    is_key_name(machine).then_some(machine)
}

/// The line as it is kept: the options that count, the key, its comment, and nothing else that stood around it.
fn line_of(key: &PublicKey, user: &UserName, name: &str) -> String {
    let comment: String = key.comment.chars().take(COMMENT_MAX).collect();
    let comment = if comment.is_empty() { format!("{user}@{name}") } else { comment };
    let digits = data_encoding::BASE64.encode(&key.blob);
    format!("{}{} {digits} {comment}", key.options.written(), key.algorithm)
}

/// With which key an order was given, for the commit's message.
fn ordered_with(actor: &Actor) -> String {
    match actor {
        Actor::User { key, by: None, .. } => format!("ordered with key {key}"),
        Actor::User { key, by: Some(by), .. } => format!("ordered with key {key}, certificate {by}"),
        _ => "ordered on the machine".to_owned(),
    }
}

fn ssh(control: &Control) -> String {
    control.realm.live().address.ssh()
}

impl Control {
    /// `keys add`: reads the key, and perhaps its signature, from the input.
    pub(super) async fn add_key(
        &self,
        actor: &Actor,
        from: &str,
        user: UserName,
        name: Option<String>,
        end: Option<Stamp>,
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let text = match typed(input, INPUT_MAX).await {
            Ok(text) => text,
            Err(why) => return Reply::fail(2, format!("FATAL: {why}")),
        };
        let at = text.find(SIGNATURE_BEGINS).unwrap_or(text.len());
        let (key, signature) = text.split_at(at);
        let new = match self.new_key(actor, user, name, end, key) {
            Ok(new) => new,
            Err(refused) => return refused,
        };
        let rules = self.key_rules();
        let own = matches!(actor, Actor::User { name, .. } if *name == new.user);
        if rules.proof
            && own
            && let Err(refused) = self.prove(&new, signature)
        {
            return refused;
        }
        if rules.approve && own && !self.realm.may_administer(actor) {
            return self.wait_for_approval(actor, new).await;
        }
        if let Err(refused) = self.within_own(actor, new.key.options.expires, Some(new.key.options.from.as_ref())) {
            return refused;
        }
        self.commit_key(actor, from, new, ordered_with(actor)).await
    }

    /// What a user makes with a key that ends must end with it, and what they make with one that is bound to addresses
    /// must be bound likewise: else they would undo by themselves what an administrator has set. `from` is the binding
    /// of a key that is to be added.
    fn within_own(&self, actor: &Actor, end: Option<Stamp>, from: Option<Option<&AddressList>>) -> Result<(), Reply> {
        let Actor::User { key, by, .. } = actor else { return Ok(()) };
        if self.realm.may_administer(actor) {
            return Ok(());
        }
        if by.is_some() {
            let first = "a certificate ends, and what it makes in keydir/ would not".to_owned();
            let help = "use a key that is in keydir/, or ask an administrator".to_owned();
            return Err(refusal(Denial::OUTLASTS, first, help));
        }
        let live = self.realm.live();
        let Some(Owner { expires, from: bound, .. }) = live.keyring.owner_of_fingerprint(key) else { return Ok(()) };
        let refused = |first: String, cure: String| {
            let help = format!("{cure}; or use a key that has no such limit, or ask an administrator");
            Err(refusal(Denial::OUTLASTS, first, help))
        };
        if let Some(last) = *expires
            && end.is_none_or(|end| end > last)
        {
            let last = rfc3339(last.moment());
            let first = format!("your key {key} ends at {last}, and what it makes cannot last longer");
            return refused(first, format!("give it an end until then: {last}"));
        }
        match (bound, from) {
            (Some(bound), Some(from)) if from.is_none_or(|from| from.as_str() != bound.as_str()) => {
                let first = format!("your key {key} is bound to addresses, and what it makes must be bound likewise");
                refused(first, format!("put this in front of the new key: from=\"{}\"", bound.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// The key that is to be added, if it is one that may be.
    fn new_key(
        &self,
        actor: &Actor,
        user: UserName,
        name: Option<String>,
        end: Option<Stamp>,
        text: &str,
    ) -> Result<New, Reply> {
        let mut key = parse_public_key(text).map_err(|problem| {
            let help = match problem {
                KeyProblem::Empty => format!("\n  help: {} keys add < ~/.ssh/id_ed25519.pub", ssh(self)),
                KeyProblem::Several { .. } => "\n  help: send one, then the next".to_owned(),
                _ => String::new(),
            };
            Reply::fail(1, format!("FATAL: nothing is added: {problem}{help}"))
        })?;
        if key.options.others {
            let text = "FATAL: nothing is added: of the options in front of a key only expiry-time and from have an effect here";
            return Err(Reply::fail(2, format!("{text}\n  help: send the key without the others")));
        }
        key.options.expires = end.or(key.options.expires);
        if key.options.expires.is_some_and(|end| end <= Stamp::new(SystemTime::now())) {
            return Err(Reply::fail(2, "FATAL: nothing is added: the key would have expired already"));
        }
        let rules = self.key_rules();
        if !rules.allow(&key) {
            let types: Vec<String> = rules.types.iter().map(ToString::to_string).collect();
            return Err(refusal(
                Denial::KEY_TYPE,
                format!("keys of type {} with {} bits are not taken here", key_type(&key.algorithm), key.bits),
                format!("'option keys.types' of {ADMIN_REPO} says which are: {}", types.join(" ")),
            ));
        }
        let live = self.realm.live();
        if let Some(known) = user_keys(live.key_files(), Some(&user)).iter().find(|known| known.key.blob == key.blob) {
            let help = format!("keys expire {} TIME, to change how long it counts", known.name());
            return Err(taken(format!("'{user}' has this key already, in {}", known.file), help));
        }
        let node = live.peers.values().any(|peer| peer.key == key.blob) || key.fingerprint == self.node.key;
        if node || live.keyring.owner(&key.blob).is_some() {
            // Whose it is, is not told.
            let help = "make a new pair, ssh-keygen -t ed25519; whoever holds this one would be two people".to_owned();
            return Err(taken(format!("this key cannot be that of '{user}': it is in use already"), help));
        }
        let name = name.or_else(|| name_in(&key.comment).map(str::to_owned));
        let name = name.filter(|name| is_key_name(name)).ok_or_else(|| {
            let help = format!("{} keys add laptop < KEY.pub", ssh(self));
            Reply::fail(2, format!("FATAL: give the key a name, of letters, digits, '-' and '_'\n  help: {help}"))
        })?;
        tracing::debug!(user = %actor, owner = %user, key = %key.fingerprint, "a key is to be added");
        let line = line_of(&key, &user, &name);
        Ok(New { user, name, key, line })
    }

    /// The new key signs a text, so that nobody adds a key that is not theirs.
    fn prove(&self, new: &New, signature: &str) -> Result<(), Reply> {
        let New { user, name, key, .. } = new;
        let now = Instant::now();
        let wanted = self.key_desk.to_sign(user, &key.fingerprint, now);
        let why = match wanted.filter(|_| !signature.is_empty()) {
            Some(text) => match verify_proof(&key.blob, &text, signature) {
                Ok(()) => {
                    self.key_desk.signed(user);
                    return Ok(());
                }
                Err(why) => why.to_string(),
            },
            None if signature.is_empty() => "show that you hold the private key: have it sign a text".to_owned(),
            None => "the text was given out too long ago, or for another key; here is a new one".to_owned(),
        };
        let text = self.key_desk.challenge(user, &key.fingerprint, now);
        let sign = format!("echo '{text}' | ssh-keygen -Y sign -n {NAMESPACE} -f KEY");
        let help = format!("within 10 minutes: (cat KEY.pub; {sign}) | {} keys add {name}", ssh(self));
        let mut reply = refusal(Denial::KEY_PROOF, why, help);
        (reply.out, reply.code) = (format!("{text}\n"), 3);
        Err(reply)
    }

    async fn wait_for_approval(&self, actor: &Actor, new: New) -> Reply {
        self.blocking(actor, move |control, actor| {
            let Actor::User { key: by, .. } = actor else { return Reply::default() };
            let New { user, name, key, line } = new;
            let waiting = Waiting {
                code: String::new(),
                user: user.to_string(),
                by: by.to_string(),
                name: name.clone(),
                line,
                fingerprint: key.fingerprint.to_string(),
                since: Stamp::new(SystemTime::now()).to_string(),
            };
            let code = match control.key_desk.wait(waiting) {
                Ok(code) => code,
                Err(error @ (CannotWait::TooMany | CannotWait::Full)) => {
                    return Reply::fail(1, format!("FATAL: {error}; reject some: keys list, keys reject CODE"));
                }
                Err(CannotWait::Io(error)) => return unkept(&error),
            };
            let now = Stamp::new(SystemTime::now());
            let others = user_keys(control.realm.live().key_files(), Some(&user));
            let has_other = others.iter().any(|other| other.key.fingerprint != *by && !other.has_expired(now));
            let who = if has_other { "with another key of yours, or an administrator" } else { "an administrator" };
            let err = format!(
                "{user}@{name} ({}) waits for approval, for 7 days: 'option keys.approve' of {ADMIN_REPO}\n  \
                 help: {who}: {} keys approve {code}\n",
                key.fingerprint,
                ssh(control)
            );
            Reply { out: format!("{code}\n"), err, code: 3 }
        })
        .await
    }

    /// Which addition waits under a code, if it is one that this actor may know of.
    fn waiting_for(&self, actor: &Actor, code: &str) -> Result<Waiting, Reply> {
        let waiting = self.key_desk.waiting().map_err(|error| unkept(&error))?;
        let knows = |one: &Waiting| {
            let own = match actor {
                // With a key of their own: an administrator's 'sudo' comes with the administrator's.
                // A certificate is no second key of theirs: whoever has one can have another key signed.
                Actor::User { name, by, .. } => name.as_str() == one.user && by.is_none() && self.realm.knows(actor),
                _ => false,
            };
            own || *actor == Actor::Local || self.realm.may_administer(actor)
        };
        waiting.into_iter().find(|one| one.code == code && knows(one)).ok_or_else(|| {
            let help = "'keys list' tells what waits; an addition waits for 7 days".to_owned();
            let reply = refusal(Denial::KEY_CODE, format!("nothing waits under the code '{code}'"), help);
            Reply { code: 4, ..reply }
        })
    }

    pub(super) async fn approve_key(&self, actor: &Actor, from: &str, code: String) -> Reply {
        let waiting = match self.waiting_for(actor, &code) {
            Ok(waiting) => waiting,
            Err(refused) => return refused,
        };
        if !self.realm.may_administer(actor) && matches!(actor, Actor::User { key, .. } if key.as_str() == waiting.by) {
            let help = "log in with another key of yours (ssh -i FILE -o IdentitiesOnly=yes), or ask an administrator";
            let first = "the key that asked for it cannot approve it".to_owned();
            return refusal(Denial::KEY_CODE, first, help.to_owned());
        }
        let user = UserName::new(&waiting.user).ok();
        let new = match user.map(|user| self.new_key(actor, user, Some(waiting.name.clone()), None, &waiting.line)) {
            Some(Ok(new)) => new,
            Some(Err(refused)) => return refused,
            None => return Reply::fail(1, "FATAL: what waits cannot be read; add the key again"),
        };
        if let Err(refused) = self.within_own(actor, new.key.options.expires, Some(new.key.options.from.as_ref())) {
            return refused;
        }
        let how = format!("asked with key {}, approved: {}", waiting.by, ordered_with(actor));
        let reply = self.commit_key(actor, from, new, how).await;
        if reply.code == 0
            && let Err(error) = self.key_desk.done(&code)
        {
            tracing::warn!(%error, code, "an approved key still waits; it cannot be added twice");
        }
        reply
    }

    pub(super) fn reject_key(&self, actor: &Actor, code: &str) -> Reply {
        let waiting = match self.waiting_for(actor, code) {
            Ok(waiting) => waiting,
            Err(refused) => return refused,
        };
        match self.key_desk.done(code) {
            Ok(()) => Reply::done(format!("{}@{} waits no more; nothing was added\n", waiting.user, waiting.name)),
            Err(error) => unkept(&error),
        }
    }

    async fn commit_key(&self, actor: &Actor, from: &str, new: New, how: String) -> Reply {
        let asked = new.clone();
        let (sent, made) = std::sync::mpsc::channel();
        let done = self.commit(actor, from, "keys add", move |files| {
            let (path, change) = asked.commit(files, &how)?;
            // Whoever waits for the commit takes the last of these.
            drop(sent.send(path));
            Ok(change)
        });
        match done.await {
            Ok(done) => {
                let path = made.try_iter().last().unwrap_or_default();
                let key = &new.key;
                let said = format!("added {path} ({}, {}{})\n", key_type(&key.algorithm), key.fingerprint, new.end());
                self.told(actor, said, &done)
            }
            Err(reply) => reply,
        }
    }

    /// `keys expire` and `keys remove`.
    pub(super) async fn change_key(&self, actor: &Actor, from: &str, user: UserName, order: Order) -> Reply {
        let what = if matches!(order, Order::Remove { .. }) { "keys remove" } else { "keys expire" };
        let how = ordered_with(actor);
        let (sent, said) = std::sync::mpsc::channel();
        let (me, by) = (self.clone(), actor.clone());
        let done = self.commit(actor, from, what, move |files| {
            if let Order::Expire { key, end, .. } = &order {
                me.may_move(&by, &user_keys(files, Some(&user)), &user, key, *end)?;
            }
            let (text, change) = changed(files, &user, &order, &how, Stamp::new(SystemTime::now()))?;
            drop(sent.send(text));
            Ok(change)
        });
        match done.await {
            Ok(done) => self.told(actor, said.try_iter().last().unwrap_or_default(), &done),
            Err(reply) => reply,
        }
    }

    /// Whether the actor may give this end to the key that is meant. An earlier one is always theirs to give; with
    /// `keys.approve` a later one is an administrator's, since nobody else looks at it.
    fn may_move(
        &self,
        actor: &Actor,
        keys: &[UserKey],
        user: &UserName,
        word: &str,
        end: Option<Stamp>,
    ) -> Result<(), Reply> {
        let key = meant(keys, user, word)?;
        let ends = keys.iter().filter(|one| one.key.fingerprint == key).map(|one| one.key.options.expires);
        // No end at all is the latest.
        let is_later = |before: Option<Stamp>| before.is_some_and(|before| end.is_none_or(|end| end > before));
        if !ends.into_iter().any(is_later) {
            return Ok(());
        }
        let own = matches!(actor, Actor::User { name, .. } if name == user);
        if own && self.key_rules().approve && !self.realm.may_administer(actor) {
            let first = format!("a later end of {key} needs an administrator here");
            let help = format!("'option keys.approve' of {ADMIN_REPO} says so; or add another key: keys add");
            return Err(refusal(Denial::OUTLASTS, first, help));
        }
        self.within_own(actor, end, None)
    }

    /// What a change did; administrators read the plan too, as after a push.
    fn told(&self, actor: &Actor, mut said: String, done: &Committed) -> Reply {
        if *actor == Actor::Local || self.realm.may_administer(actor) {
            said.push_str(&done.plan);
        }
        said.push_str(&done.in_force());
        Reply { code: i32::from(done.applied.is_err()), ..Reply::done(said) }
    }
}

fn unkept(error: &dyn std::fmt::Display) -> Reply {
    tracing::error!(%error, "what waits for approval cannot be kept or read");
    Reply::fail(70, "FATAL: what waits for approval cannot be kept; tell an administrator of this machine")
}

/// Dates or removes the key that is meant: what is said of it, and the commit.
fn changed(files: &Files, user: &UserName, order: &Order, how: &str, now: Stamp) -> Result<(String, Change), Reply> {
    let (word, force) = match order {
        Order::Expire { key, force, .. } | Order::Remove { key, force } => (key, *force),
        _ => return Err(Reply::default()),
    };
    let keys = user_keys(files, Some(user));
    let meant = meant(&keys, user, word)?;
    let mut own: Files =
        keys.iter().filter_map(|key| files.get_key_value(&key.file)).map(|(p, t)| (p.clone(), t.clone())).collect();
    let before = own.clone();
    // The same key may stand in several places.
    loop {
        let all = user_keys(&own, Some(user));
        let is_meant = |key: &&UserKey| key.key.fingerprint == meant;
        let edits = match order {
            Order::Remove { .. } => all.iter().find(is_meant).map(|key| without(&own, key)),
            Order::Expire { end, .. } => {
                let other = |key: &&UserKey| is_meant(key) && key.key.options.expires != *end;
                all.iter().find(other).map(|key| dated(&own, key, *end))
            }
            _ => None,
        };
        let Some(edits) = edits else { break };
        for (path, text) in edits {
            match text {
                Some(text) => drop(own.insert(path, text)),
                None => drop(own.remove(&path)),
            }
        }
    }
    let lasting = |files: &Files| user_keys(files, Some(user)).iter().any(|key| !key.has_expired(now));
    if !force && lasting(&before) && !lasting(&own) {
        return Err(refusal(
            Denial::LAST_KEY,
            format!("this is the last key of '{user}' that opens anything; without it they cannot log in"),
            "add another one first: keys add; or say --force".to_owned(),
        ));
    }
    let files: Edits = before
        .into_iter()
        .filter(|(path, text)| own.get(path) != Some(text))
        .map(|(path, _)| (path.clone(), own.get(&path).cloned()))
        .collect();
    let (said, what) = match order {
        Order::Remove { .. } => (format!("removed {meant} of {user}\n"), format!("keys remove: {user}")),
        Order::Expire { end, .. } => {
            let ends = end.map_or("never expires".to_owned(), |at| format!("expires {}", rfc3339(at.moment())));
            (format!("{meant} of {user} {ends}\n"), format!("keys expire: {user}, {ends}"))
        }
        _ => Default::default(),
    };
    if files.is_empty() {
        return Err(Reply::done(said + "nothing has changed\n"));
    }
    Ok((said, Change { files, message: format!("{what}\n\n{meant}\n{how}\n") }))
}

/// The one key that a word means.
fn meant(keys: &[UserKey], user: &UserName, word: &str) -> Result<Fingerprint, Reply> {
    let mut found: Vec<&UserKey> = keys.iter().filter(|key| key.is_meant_by(word)).collect();
    found.dedup_by(|a, b| a.key.fingerprint == b.key.fingerprint);
    match found[..] {
        [one] => Ok(one.key.fingerprint.clone()),
        [] => Err(Reply::fail(4, format!("FATAL: no key of '{user}' is called '{word}'; 'keys list' tells them"))),
        ref several => {
            let all: Vec<&str> = several.iter().map(|key| key.key.fingerprint.as_str()).collect();
            let text = format!("FATAL: '{word}' means several keys; name one by its fingerprint: {}", all.join(" "));
            Err(Reply::fail(2, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2/C2kQn1vF1erSHaH+Vz3+t2j06lMn4YMSCXCEgC5M alice@laptop";
    const TWO: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEAQW3M4c56Niu3E0lUSDtxnJBy74WqdI5lXRGI/dxjKN4AJKGPLhdT0WE+jxm0Ya5OoNOaNCdqjZs7qtx4MlTA= two";

    fn files(all: &[(&str, &str)]) -> Files {
        all.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn order(files: &Files, order: &Order) -> Result<Edits, Reply> {
        let now = Stamp::parse_compact("20261121").unwrap();
        changed(files, &UserName::new("alice").unwrap(), order, "x", now).map(|(_, change)| change.files)
    }

    fn remove(key: &str, force: bool) -> Order {
        Order::Remove { key: key.to_owned(), force }
    }

    #[test]
    fn a_key_goes_from_everywhere_and_the_last_one_stays() {
        let both = format!("{ONE}\n{TWO}\n");
        let twice = files(&[("keydir/a/alice.pub", &both), ("keydir/b/alice@x.pub", ONE), ("keydir/bob.pub", TWO)]);
        let gone = order(&twice, &remove("x", false)).unwrap();
        assert_eq!(gone["keydir/a/alice.pub"].as_deref(), Some(format!("{TWO}\n").as_bytes()));
        assert_eq!((gone["keydir/b/alice@x.pub"].clone(), gone.len()), (None, 2));
        let unclear = order(&twice, &remove("keydir/a/alice.pub", false)).unwrap_err();
        assert!(unclear.code == 2 && unclear.err.contains("several keys"), "{unclear:?}");
        assert_eq!(order(&twice, &remove("laptop", false)).unwrap_err().code, 4);

        let one = files(&[("keydir/alice.pub", ONE)]);
        let refused = order(&one, &remove("alice.pub", false)).unwrap_err();
        assert!(refused.err.contains("E0236") && refused.err.contains("--force"), "{refused:?}");
        assert_eq!(order(&one, &remove("alice.pub", true)).unwrap(), [("keydir/alice.pub".to_owned(), None)].into());
        // One that has expired opens nothing, so it keeps nobody in.
        let past = format!("expiry-time=\"20201201\" {TWO}");
        let old = files(&[("keydir/alice.pub", ONE), ("keydir/alice@old.pub", &past)]);
        assert!(order(&old, &remove("alice.pub", false)).unwrap_err().err.contains("E0236"));
        assert!(order(&old, &remove("old", false)).is_ok());
    }

    #[test]
    fn ends_are_set_moved_and_taken_away() {
        let one = files(&[("keydir/alice.pub", ONE)]);
        let expire = |files: &Files, at: Option<&str>| {
            let end = at.and_then(Stamp::parse_compact);
            order(files, &Order::Expire { key: "alice.pub".to_owned(), end, force: false })
        };
        let dated = expire(&one, Some("20261201")).unwrap()["keydir/alice.pub"].clone().unwrap();
        assert_eq!(String::from_utf8(dated.clone()).unwrap(), format!("expiry-time=\"20261201Z\" {ONE}\n"));
        let two: Files = [("keydir/alice.pub".to_owned(), dated)].into();
        let again = expire(&two, Some("20261201")).unwrap_err();
        assert!(again.code == 0 && again.out.contains("nothing has changed"), "{again:?}");
        let undated = expire(&two, None).unwrap()["keydir/alice.pub"].clone().unwrap();
        assert_eq!(String::from_utf8(undated).unwrap(), format!("{ONE}\n"));
        assert!(expire(&one, Some("20261121")).unwrap_err().err.contains("E0236"), "now, and it is the only one");
    }

    #[test]
    fn names_come_from_comments() {
        assert_eq!(name_in("alice@laptop.lan"), Some("laptop"));
        assert_eq!((name_in("alice"), name_in("alice@"), name_in("a@b c")), (None, None, None));
    }
}
