//! `send` against the machine's own `git receive-pack`, over pipes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::ours::Ours;
use super::plan::{Obstacle, Order};
use super::pushed::Pushed;
use super::send::{Manner, SendError, Sent, Terms, exec_line, send};
use crate::git::process::Git;
use crate::git::ref_state::{RefState, read_refs};
use crate::model::{Epoch, HostName, Oid, RefName, RefUpdate, RepoName, UserName};
use crate::repo::{Metadata, Ownership};

const USUAL: Terms = Terms { order: Order::Usual, manner: Manner::Atomic, guard_refs: 50 };

/// A master's repository and a replica's, both bare.
pub(super) struct Pair {
    _home: TempDir,
    pub ours: PathBuf,
    pub theirs: PathBuf,
}

pub(super) fn git_in(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", "/nonexistent").current_dir(dir).args(args);
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "t").env(format!("GIT_{role}_EMAIL"), "t@example.org");
    }
    let out = command.output().expect("git is installed");
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text").trim().to_owned()
}

/// A commit on top of `parents`, not yet named by a ref.
pub(super) fn commit(dir: &Path, message: &str, parents: &[&str]) -> String {
    let tree = git_in(dir, &["hash-object", "-t", "tree", "-w", "/dev/null"]);
    let mut args = vec!["commit-tree", "-m", message];
    args.extend(parents.iter().flat_map(|p| ["-p", p]));
    args.push(&tree);
    git_in(dir, &args)
}

impl Pair {
    pub(super) fn new() -> Self {
        let home = TempDir::new().expect("a directory");
        let (ours, theirs) = (home.path().join("ours.git"), home.path().join("theirs.git"));
        for dir in [&ours, &theirs] {
            git_in(home.path(), &["init", "-q", "--bare", "-b", "main", dir.to_str().expect("text")]);
        }
        Self { _home: home, ours, theirs }
    }

    /// Names a fresh commit in ours.
    fn set(&self, name: &str, parents: &[&str]) -> String {
        let oid = commit(&self.ours, name, parents);
        git_in(&self.ours, &["update-ref", name, &oid]);
        oid
    }

    /// As the worker does when all goes well: in one transaction, and again if something is left.
    async fn push(&self) -> Result<Sent, SendError> {
        let first = self.push_with(USUAL).await?;
        let rest = if first.more { self.push_with(USUAL).await? } else { Sent::default() };
        Ok(Sent {
            refs: first.refs + rest.refs,
            pack_bytes: first.pack_bytes + rest.pack_bytes,
            more: rest.more,
            etag: rest.etag,
        })
    }

    async fn push_with(&self, terms: Terms) -> Result<Sent, SendError> {
        let git = Git::new("git".into(), "/dev/null".into());
        self.send(&git, &read_refs(&self.ours).expect("readable").into(), terms).await
    }

    /// `git` is the sender's.
    async fn send(&self, git: &Git, ours: &Ours, terms: Terms) -> Result<Sent, SendError> {
        let mut command = Git::new("git".into(), "/dev/null".into()).command(&self.theirs);
        command.args(["receive-pack", "."]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("git receive-pack");
        let (input, output) = (child.stdout.take().expect("piped"), child.stdin.take().expect("piped"));
        let sent = send(input, output, git, &self.ours, ours, terms, &|_| Duration::ZERO).await;
        if sent.is_ok() {
            assert!(child.wait().await.expect("ended").success());
        }
        sent
    }

    /// How many refs a push changed; the replica's are then ours, and its objects are whole.
    async fn in_step_after(&self) -> usize {
        let sent = self.push().await.expect("pushed");
        assert_eq!(read_refs(&self.theirs).expect("readable").refs, read_refs(&self.ours).expect("readable").refs);
        git_in(&self.theirs, &["fsck", "--connectivity-only", "--strict"]);
        sent.refs
    }

    fn hook(&self, name: &str, script: &str) {
        let path = self.theirs.join("hooks").join(name);
        std::fs::create_dir_all(path.parent().expect("hooks")).expect("created");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    }
}

#[tokio::test]
async fn creations_updates_and_tags_arrive_and_an_equal_replica_gets_nothing() {
    let pair = Pair::new();
    assert_eq!(pair.in_step_after().await, 0, "both empty");
    let first = pair.set("refs/heads/main", &[]);
    assert_eq!(pair.in_step_after().await, 1);
    pair.set("refs/heads/main", &[&first]);
    git_in(&pair.ours, &["tag", "light", &first]);
    git_in(&pair.ours, &["tag", "-a", "-m", "x", "annotated", &first]);
    git_in(&pair.ours, &["update-ref", "refs/notes/commits", &first]);
    assert_eq!(pair.in_step_after().await, 4);
    assert_eq!(pair.push().await.expect("pushed"), Sent::default());
    // Objects the replica has are not sent again.
    git_in(&pair.ours, &["update-ref", "refs/heads/again", &first]);
    assert!(pair.push().await.expect("pushed").pack_bytes <= 32, "an empty pack");
}

#[tokio::test]
async fn forced_updates_and_deletions_arrive() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    pair.set("refs/heads/main", &[&base]);
    pair.set("refs/heads/dir", &[&base]);
    assert_eq!(pair.in_step_after().await, 2);
    pair.set("refs/heads/main", &[]);
    git_in(&pair.ours, &["update-ref", "-d", "refs/heads/dir"]);
    pair.set("refs/heads/dir/file", &[&base]);
    assert_eq!(pair.in_step_after().await, 3, "rewound, and a name became a directory");
    git_in(&pair.ours, &["update-ref", "-d", "refs/heads/dir/file"]);
    assert_eq!(pair.in_step_after().await, 1, "deletions alone");
}

#[tokio::test]
async fn a_replica_with_commits_we_lack_is_overwritten_by_a_repair_only() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    pair.set("refs/heads/main", &[&base]);
    assert_eq!(pair.in_step_after().await, 1);
    git_in(&pair.ours, &["update-ref", "refs/heads/main", &base]);
    assert_eq!(pair.in_step_after().await, 1, "rewound here, which is no divergence");

    let strange = commit(&pair.theirs, "made there", &[]);
    git_in(&pair.theirs, &["update-ref", "refs/heads/strange", &strange]);
    pair.set("refs/heads/more", &[]);
    for order in [Order::Usual, Order::Force] {
        let error = pair.push_with(Terms { order, ..USUAL }).await.expect_err("diverged");
        let SendError::Held(Obstacle::Diverged(refs)) = &error else { panic!("{error}") };
        assert_eq!(
            refs.iter().map(|(n, o)| (n.as_str(), o.as_str())).collect::<Vec<_>>(),
            [("refs/heads/strange", &*strange)]
        );
        let said = format!("the replica has refs/heads/strange at {}", &strange[..12]);
        assert!(error.to_string().contains(&said) && error.to_string().contains("mirror repair"), "{error}");
    }
    assert!(!git_in(&pair.theirs, &["for-each-ref"]).contains("refs/heads/more"), "nothing was sent");
    pair.push_with(Terms { order: Order::Repair, ..USUAL }).await.expect("repaired");
    assert_eq!(pair.in_step_after().await, 0);
}

#[tokio::test]
async fn a_mass_deletion_waits() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    for n in 0..20 {
        git_in(&pair.ours, &["update-ref", &format!("refs/tags/v{n}"), &base]);
    }
    assert_eq!(pair.in_step_after().await, 21);
    for n in 0..15 {
        git_in(&pair.ours, &["update-ref", "-d", &format!("refs/tags/v{n}")]);
    }
    let error = pair.push().await.expect_err("held");
    assert!(error.to_string().starts_with("held back: this would delete 15 of the replica's 21 references"), "{error}");
    assert_eq!(read_refs(&pair.theirs).expect("readable").refs.len(), 21);
    pair.push_with(Terms { guard_refs: 80, ..USUAL }).await.expect("a share that is allowed");
    assert_eq!(pair.in_step_after().await, 0);
    git_in(&pair.theirs, &["config", "receive.denyDeleteCurrent", "ignore"]);
    git_in(&pair.ours, &["update-ref", "-d", "refs/heads/main"]);
    for n in 15..20 {
        git_in(&pair.ours, &["update-ref", "-d", &format!("refs/tags/v{n}")]);
    }
    let error = pair.push().await.expect_err("held");
    assert!(error.to_string().contains("no reference here any more, and the replica has 6"), "{error}");
    pair.push_with(Terms { order: Order::Force, ..USUAL }).await.expect("by order");
    assert_eq!(pair.in_step_after().await, 0);
}

/// The transactions of git that changed references there, by the number of references that each set or deleted.
fn transactions(pair: &Pair) -> Vec<usize> {
    let text = std::fs::read_to_string(pair.theirs.join("seen")).unwrap_or_default();
    text.split_terminator("--\n").map(|one| one.lines().count()).collect()
}

#[tokio::test]
async fn all_references_change_in_one_transaction() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    pair.hook("reference-transaction", "if [ $1 = committed ]; then grep refs/ >> seen; echo -- >> seen; fi");
    for name in ["a", "b", "c"] {
        git_in(&pair.ours, &["update-ref", &format!("refs/heads/{name}"), &base]);
    }
    assert_eq!(pair.in_step_after().await, 4);
    assert_eq!(transactions(&pair), [4]);
    std::fs::remove_file(pair.theirs.join("seen")).expect("written");
    // A name that becomes a directory: it goes first, and the rest comes at once.
    git_in(&pair.ours, &["update-ref", "-d", "refs/heads/a"]);
    for name in ["a/x", "d", "e"] {
        git_in(&pair.ours, &["update-ref", &format!("refs/heads/{name}"), &base]);
    }
    assert_eq!(pair.in_step_after().await, 4);
    assert_eq!(transactions(&pair).last(), Some(&3));
}

#[tokio::test]
async fn a_refused_ref_refuses_the_transaction_and_one_by_one_the_others_arrive() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    pair.set("refs/heads/frozen", &[&base]);
    pair.hook("update", "case $1 in refs/heads/frozen) echo 'not this one' >&2; exit 1;; esac");
    let error = pair.push().await.expect_err("one is refused");
    assert!(matches!(&error, SendError::Refs(refs) if refs.len() == 2), "{error}");
    assert_eq!(git_in(&pair.theirs, &["for-each-ref"]), "");
    let error = pair.push_with(Terms { manner: Manner::OneByOne, ..USUAL }).await.expect_err("one is refused");
    assert_eq!(error.to_string(), "the replica refused refs/heads/frozen: hook declined");
    assert_eq!(git_in(&pair.theirs, &["rev-parse", "refs/heads/main"]), base);

    pair.hook("pre-receive", "echo 'disk is full' >&2; exit 1");
    let error = pair.push().await.expect_err("all are refused");
    assert!(matches!(&error, SendError::Refs(refs) if refs[0].1 == "pre-receive hook declined"), "{error}");
}

#[tokio::test]
async fn internal_refs_stay_where_they_are() {
    let pair = Pair::new();
    let ours = pair.set("refs/gitmesh/lost/a", &[]);
    let theirs = commit(&pair.theirs, "kept", &[]);
    git_in(&pair.theirs, &["update-ref", "refs/gitmesh/lost/b", &theirs]);
    assert_eq!(pair.push().await.expect("pushed").refs, 0);
    let names = |dir: &Path| git_in(dir, &["for-each-ref", "--format=%(objectname) %(refname)"]);
    assert_eq!(names(&pair.ours), format!("{ours} refs/gitmesh/lost/a"));
    assert_eq!(names(&pair.theirs), format!("{theirs} refs/gitmesh/lost/b"));
}

#[tokio::test]
async fn a_thousand_refs_go_in_one_push() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    let lines: String = (0..1000).map(|n| format!("create refs/heads/b{n} {base}\n")).collect();
    std::fs::write(pair.ours.join("commands"), lines).expect("written");
    let script = "git update-ref --stdin < commands";
    let done = Command::new("sh").args(["-c", script]).current_dir(&pair.ours).status().expect("a shell");
    assert!(done.success());
    assert_eq!(pair.in_step_after().await, 1001);
}

#[tokio::test]
async fn a_broken_pack_is_the_error_of_who_made_it() {
    let pair = Pair::new();
    let base = pair.set("refs/heads/main", &[]);
    pair.set("refs/heads/main", &[&base]);
    std::fs::remove_file(pair.ours.join("objects").join(&base[..2]).join(&base[2..])).expect("a loose object");
    let error = pair.push().await.expect_err("an object is missing");
    assert!(matches!(&error, SendError::Pack(said) if said.contains(&base)), "{error}");
    assert_eq!(git_in(&pair.theirs, &["for-each-ref"]), "");
}

async fn answer(advertisement: &[u8]) -> String {
    let git = Git::new("git".into(), "/dev/null".into());
    let pair = Pair::new();
    pair.set("refs/heads/main", &[]);
    let ours = read_refs(&pair.ours).expect("readable").into();
    let sent = send(advertisement, tokio::io::sink(), &git, &pair.ours, &ours, USUAL, &|_| Duration::ZERO).await;
    let error = sent.expect_err("no success");
    error.to_string()
}

#[tokio::test]
async fn what_is_no_advertisement_is_told() {
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let zero = "0".repeat(40);
    assert_eq!(answer(b"001aERR go to server1 now\n").await, "go to server1 now");
    assert_eq!(answer(b"").await, "the connection ended before the replica had reported");
    assert_eq!(answer(b"003fcut").await, "the connection ended before the replica had reported");
    assert!(answer(b"Welcome!\n").await.contains("\"Welcome!\\n\""));
    assert!(answer(line("no oid\n").as_bytes()).await.contains("\"no oid\" where a reference was expected"));
    assert!(answer(line(&format!("{zero} capabilities^{{}}\0quiet\n")).as_bytes()).await.contains("ended"));
    let poor = format!("{}0000", line(&format!("{zero} capabilities^{{}}\0quiet\n")));
    assert!(answer(poor.as_bytes()).await.contains("'report-status'"));
    let sha256 = "report-status side-band-64k object-format=sha256";
    let other = format!("{}0000", line(&format!("{zero} capabilities^{{}}\0{sha256}\n")));
    assert!(answer(other.as_bytes()).await.contains("sha256"));
    // Everything is promised and nothing reported.
    let mute = format!("{}0000", line(&format!("{zero} capabilities^{{}}\0report-status side-band-64k\n")));
    assert!(answer(mute.as_bytes()).await.contains("ended before"));
    let fatal = format!("{mute}{}0000", line("\x03disk full\n"));
    assert!(answer(fatal.as_bytes()).await.contains("disk full"));
    let silent_ref = format!("{mute}{}0000", line(&format!("\x01{}0000", line("unpack ok\n"))));
    assert!(answer(silent_ref.as_bytes()).await.contains("ended before"), "an update it does not mention");
}

#[test]
fn exec_lines() {
    let repo = RepoName::new("docs/handbook").expect("a name");
    let (head, nothing) = (RefName::parse("refs/heads/main"), Metadata::default());
    let mut ours = Ours::from(RefState { head, ..RefState::default() });
    let none = Ownership::default();
    assert_eq!(
        exec_line(&repo, Epoch::FIRST, &ours, &none, Some(&nothing), Order::Usual),
        "gitmesh-mirror-receive 'docs/handbook' version=1 epoch=1 head=refs/heads/main roles= meta="
    );
    (ours.head, ours.detached) = (None, Oid::parse(&"7".repeat(40)));
    let detached = exec_line(&repo, Epoch::FIRST, &ours, &none, Some(&nothing), Order::Usual);
    assert!(detached.contains(&format!(" epoch=1 detached={} roles=", "7".repeat(40))), "{detached}");
    ours.detached = None;
    let line =
        |owned: &Ownership, said: &Metadata| exec_line(&repo, Epoch::FIRST, &ours, owned, Some(said), Order::Force);
    assert_eq!(line(&none, &nothing), "gitmesh-mirror-receive 'docs/handbook' version=1 epoch=1 roles= meta=");
    let mut owned = Ownership { creator: UserName::new("alice").ok(), roles: None };
    assert!(line(&owned, &nothing).ends_with(" epoch=1 creator=alice roles= meta="));
    owned.roles = Some("READERS bob\n".to_owned());
    let said = Metadata { description: "a b".to_owned(), settings: [("x.y".to_owned(), "z".to_owned())].into() };
    assert!(line(&owned, &said).ends_with(" creator=alice roles=READERS%20bob%0A meta=description:a%20b,x.y:z"));
    let repair = exec_line(&repo, Epoch::FIRST, &ours, &none, Some(&nothing), Order::Repair);
    assert_eq!(repair, "gitmesh-mirror-receive 'docs/handbook' version=2 epoch=1 keep=lost roles= meta=");
    let silent = exec_line(&repo, Epoch::FIRST, &ours, &none, None, Order::Usual);
    assert_eq!(silent, "gitmesh-mirror-receive 'docs/handbook' version=1 epoch=1 roles=");
}

#[tokio::test]
async fn a_push_is_handed_on_as_it_came() {
    let pair = Pair::new();
    let first = pair.set("refs/heads/main", &[]);
    pair.in_step_after().await;
    let second = pair.set("refs/heads/main", &[&first]);
    git_in(&pair.ours, &["repack", "-dq"]);
    let packs = pair.ours.join("objects/pack");
    let newest = std::fs::read_dir(&packs).expect("listed").map(|entry| entry.expect("an entry").path());
    let newest = newest.filter(|path| path.extension().is_some_and(|kind| kind == "pack"));
    let pack = newest.max_by_key(|path| path.metadata().and_then(|about| about.modified()).expect("a time"));
    let (old, new) = (Oid::parse(&first).expect("an id"), Oid::parse(&second).expect("an id"));
    let update = RefUpdate { name: RefName::parse("refs/heads/main").expect("a name"), old, new };
    let (pushes, repo) = (Pushed::default(), RepoName::new("testing").expect("a name"));
    pushes.keep(&repo, vec![update], pack.expect("a pack"));
    let offer = pushes.offer(&repo, &HostName::new("server2").expect("a name"));
    let ours = Ours::from(read_refs(&pair.ours).expect("readable")).with_pushed(offer);
    // Nothing can be packed.
    let sent = pair.send(&Git::new("/nonexistent/git".into(), "/dev/null".into()), &ours, USUAL).await.expect("sent");
    assert!(sent.refs == 1 && sent.pack_bytes > 100, "{sent:?}");
    git_in(&pair.theirs, &["fsck", "--connectivity-only", "--strict"]);
    assert_eq!(pair.in_step_after().await, 0);
}

#[tokio::test]
async fn a_first_copy_is_sent_the_stored_pack() {
    let pair = Pair::new();
    let large = pair.ours.join("large");
    let bytes: Vec<u8> = (0..2_000_000).map(|_| rand::random()).collect();
    std::fs::write(&large, bytes).expect("written");
    let blob = git_in(&pair.ours, &["hash-object", "-w", "large"]);
    git_in(&pair.ours, &["update-ref", "refs/tags/large", &blob]);
    pair.set("refs/heads/main", &[]);
    git_in(&pair.ours, &["repack", "-adbq"]);
    // Whoever would make a pack fails.
    let program = pair.ours.join("only-counts");
    std::fs::write(&program, "#!/bin/sh\n[ \"$1\" = rev-list ] && exec git \"$@\"\nexit 1\n").expect("written");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
    let ours = read_refs(&pair.ours).expect("readable").into();
    let sent = pair.send(&Git::new(program, "/dev/null".into()), &ours, USUAL).await.expect("sent");
    assert!(sent.refs == 2 && sent.pack_bytes > 2_000_000, "{sent:?}");
    git_in(&pair.theirs, &["fsck", "--connectivity-only", "--strict"]);
    assert_eq!(pair.in_step_after().await, 0);
}
