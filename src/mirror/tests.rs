//! The whole path in one process: marks and comparisons here, real git on the other end of a real SSH link.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::send_tests::{commit, git_in};
use super::*;
use crate::cluster::{How, Masters, Replica};
use crate::git::pktline;
use crate::git::ref_state::read_refs;
use crate::model::Epoch;
use crate::peer::Peers;
use crate::peer::server::{Command, TestPeer};
use crate::repo::Metadata;

pub(super) const SOON: Duration = Duration::from_secs(20);

/// This node, and `server2` with what it holds.
pub(super) struct Mesh {
    pub(super) home: TempDir,
    pub(super) server: TestPeer,
    pub(super) pushes: Arc<AtomicUsize>,
    pub(super) peers: watch::Sender<Peers>,
    pub(super) inner: Arc<Inner>,
    pub(super) stop: CancellationToken,
    pub(super) running: JoinHandle<()>,
}

pub(super) fn bare(root: &Path, repo: &str) -> PathBuf {
    root.join(format!("{repo}.git"))
}

/// The replica's side: creates what it lacks, refuses while a file `refuse` says why, and lists its digests.
fn replica(root: PathBuf, pushes: Arc<AtomicUsize>) -> Command {
    Arc::new(move |exec, mut channel| {
        let (root, pushes) = (root.clone(), pushes.clone());
        Box::pin(async move {
            let mut writer = channel.make_writer();
            if exec.starts_with("gitmesh-mirror-digests version=") {
                if root.join("old").exists() {
                    drop(channel.make_writer_ext(Some(1)).write_all(b"version 1 is not spoken here").await);
                    return 2;
                }
                for entry in std::fs::read_dir(&root).unwrap() {
                    let path = entry.unwrap().path();
                    if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".git")) {
                        let line = format!("{}\t{name}\n", read_refs(&path).unwrap().digest());
                        drop(writer.write_all(line.as_bytes()).await);
                    }
                }
                return 0;
            }
            if let Some(name) = exec.strip_prefix("gitmesh-mirror-fsck version=1 ") {
                let dir = bare(&root, name.trim_matches('\''));
                let fsck =
                    std::process::Command::new("git").arg("-C").arg(dir).args(["fsck", "--full"]).output().unwrap();
                drop(writer.write_all(if fsck.status.success() { b"" } else { &fsck.stderr }).await);
                return 0;
            }
            if exec.starts_with(HEARTBEAT) || exec.starts_with(MASTERS) {
                return 0;
            }
            pushes.fetch_add(1, Ordering::SeqCst);
            if let Ok(why) = std::fs::read_to_string(root.join("refuse")) {
                drop(writer.write_all(&pktline::err_line(&why)).await);
                return 1;
            }
            let mut words = exec.split(' ');
            assert_eq!(words.next(), Some("gitmesh-mirror-receive"));
            let name = words.next().unwrap().trim_matches('\'').to_owned();
            assert_eq!((words.next(), words.next()), (Some("version=1"), Some("epoch=1")));
            let dir = bare(&root, &name);
            if !dir.exists() {
                git_in(&root, &["init", "-q", "--bare", dir.to_str().unwrap()]);
            }
            let git = Git::new("git".into(), "/dev/null".into());
            let mut command = git.command(&dir);
            command.args(["receive-pack", "."]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let mut reader = channel.make_reader();
            let input = async {
                drop(tokio::io::copy(&mut reader, &mut stdin).await);
                drop(stdin);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = input => {}
                _ = tokio::io::copy(&mut stdout, &mut writer) => {}
            }
            let status = child.wait().await.unwrap();
            if let Some(head) = words.next().and_then(|w| w.strip_prefix("head=")) {
                git_in(&dir, &["symbolic-ref", "HEAD", head]);
            }
            u32::try_from(status.code().unwrap_or(255)).unwrap()
        })
    })
}

impl Mesh {
    pub(super) async fn start(repos: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let (ours, theirs) = (home.path().join("ours"), home.path().join("theirs"));
        for root in [&ours, &theirs] {
            std::fs::create_dir(root).unwrap();
        }
        for repo in repos {
            git_in(&ours, &["init", "-q", "--bare", "-b", "trunk", bare(&ours, repo).to_str().unwrap()]);
        }
        let pushes: Arc<AtomicUsize> = Arc::default();
        let server = TestPeer::start(replica(theirs, pushes.clone())).await;
        let (links, peers) = server.links();
        let inner = Self::inner(&home, links);
        let stop = CancellationToken::new();
        let running = tokio::spawn(inner.clone().run(async || pending().await, stop.clone()));
        Self { home, server, pushes, peers, inner, stop, running }
    }

    pub(super) fn inner(home: &TempDir, links: Links) -> Arc<Inner> {
        let [root, listed, read] = [(); 3].map(|()| home.path().join("ours"));
        let world = World {
            partners: Box::new(|_| BTreeSet::new()),
            masters: Masters::open(
                &HostName::new("server1").unwrap(),
                crate::cluster::Files::all_in(home.path()),
                crate::repo::write_whole,
            )
            .unwrap(),
            review: Box::new(|| Ok(Vec::new())),
            node: HostName::new("server1").unwrap(),
            locate: Box::new(|_| Place::Here {
                epoch: Epoch::FIRST,
                replicas: vec![Replica { name: server2(), how: How::Async, redirect: false }],
            }),
            foreign: Box::new(|_| crate::cluster::Foreign::default()),
            dir: Box::new(move |repo| Some(bare(&root, repo.as_str())).filter(|dir| dir.exists())),
            ownership: Box::new(|_| None),
            metadata: Box::new(|_| Metadata::default()),
            digest: Box::new(move |repo| Ok(read_refs(&bare(&read, repo.as_str()))?.digest())),
            list: Box::new(move || {
                let entries = std::fs::read_dir(&listed)?.map(|e| e.map(|e| e.file_name().into_string().unwrap()));
                entries.map(|name| Ok(repo(name?.trim_end_matches(".git")))).collect()
            }),
            restored: Box::new(|_| None),
            gone: crate::repo::Gone::new(home.path().join("gone")),
            gates: crate::repo::Gates::default(),
        };
        let config = Config { retry_first: Duration::from_millis(50), ..Config::default() };
        let git = Git::new("git".into(), "/dev/null".into());
        let state = home.path().join("state");
        for dir in [&state, &home.path().join("orders")] {
            std::fs::create_dir_all(dir).expect("a directory");
        }
        Arc::new(Inner::new(config, world, git, links, &state).expect("no pauses"))
    }

    pub(super) fn ours(&self, repo: &str) -> PathBuf {
        bare(&self.home.path().join("ours"), repo)
    }

    pub(super) fn theirs(&self, name: &str) -> PathBuf {
        self.home.path().join("theirs").join(name)
    }

    /// A commit lands here, without a mark.
    pub(super) fn land(&self, repo: &str) {
        static CHANGES: AtomicUsize = AtomicUsize::new(0);
        let (dir, n) = (self.ours(repo), CHANGES.fetch_add(1, Ordering::SeqCst));
        let oid = commit(&dir, &format!("change {n}"), &[]);
        git_in(&dir, &["update-ref", &format!("refs/heads/{}", &oid[..8]), &oid]);
    }

    pub(super) fn push(&self, name: &str) {
        self.land(name);
        self.inner.mark(&repo(name));
    }

    pub(super) fn state(&self, name: &str) -> Option<State> {
        let all = self.inner.board().list(Moment::now());
        all.into_iter().find(|pair| pair.repo == repo(name)).map(|pair| pair.state)
    }

    pub(super) async fn until(&self, what: &str, met: impl Fn(&Self) -> bool) {
        let met = async {
            while !met(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(SOON, met).await.is_err() {
            panic!("not in time: {what}; {:?}", self.inner.board().list(Moment::now()));
        }
    }

    /// The comparisons at the start and of the new link are over when the worker has come round some more times.
    async fn settle(&self) {
        for _ in 0..5 {
            self.push("a");
            self.in_step("a").await;
            self.until("idle", |mesh| mesh.inner.lane(&server2()).is_idle()).await;
        }
    }

    pub(super) async fn in_step(&self, name: &str) {
        let equal = |mesh: &Self| {
            let there = bare(&mesh.home.path().join("theirs"), name);
            let digest = |dir: &Path| read_refs(dir).map(|refs| refs.digest()).ok();
            digest(&there).is_some_and(|digest_there| Some(digest_there) == digest(&mesh.ours(name)))
                && mesh.state(name) == Some(State::InStep)
        };
        self.until(&format!("{name} in step"), equal).await;
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        timeout(SOON, self.running).await.expect("stops").expect("without a panic");
    }
}

pub(super) fn repo(name: &str) -> RepoName {
    RepoName::new(name).unwrap()
}

pub(super) fn server2() -> HostName {
    HostName::new("server2").unwrap()
}

#[tokio::test]
async fn what_is_marked_arrives_with_head_and_many_marks_become_few_pushes() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.in_step("a").await;
    let before = mesh.pushes.load(Ordering::SeqCst);
    mesh.push("a");
    for _ in 0..1000 {
        mesh.inner.mark(&repo("a"));
    }
    mesh.in_step("a").await;
    assert!(mesh.pushes.load(Ordering::SeqCst) - before <= 4);
    let there = read_refs(&mesh.theirs("a.git")).unwrap();
    assert_eq!((there.head.unwrap().as_str(), there.refs.len()), ("refs/heads/trunk", 1));
    assert_eq!(mesh.server.connections.load(Ordering::SeqCst), 1, "one connection for everything");
    mesh.end().await;
}

#[tokio::test]
async fn what_landed_before_the_start_is_found_by_comparing() {
    let mut mesh = Mesh::start(&["a", "b"]).await;
    mesh.in_step("a").await;
    mesh.in_step("b").await;
    mesh.stop.cancel();
    timeout(SOON, &mut mesh.running).await.unwrap().unwrap();
    mesh.land("a");
    // The same node again, with an empty memory; `b` is equal and gets no push.
    mesh.inner = Mesh::inner(&mesh.home, mesh.server.links().0);
    mesh.stop = CancellationToken::new();
    let before = mesh.pushes.load(Ordering::SeqCst);
    mesh.running = tokio::spawn(mesh.inner.clone().run(async || pending().await, mesh.stop.clone()));
    mesh.in_step("a").await;
    mesh.in_step("b").await;
    assert_eq!(mesh.pushes.load(Ordering::SeqCst) - before, 1);
    mesh.end().await;
}

#[tokio::test]
async fn an_outage_is_survived_without_help() {
    let mut mesh = Mesh::start(&["a", "b"]).await;
    mesh.in_step("a").await;
    mesh.in_step("b").await;
    mesh.server.cut(false).await;
    mesh.push("a");
    let down = |mesh: &Mesh| matches!(mesh.state("a"), Some(State::Failing { error, .. }) if error.contains("reach"));
    mesh.until("a failing", down).await;
    mesh.land("b"); // and nobody says so
    mesh.server.listen().await;
    mesh.in_step("a").await;
    mesh.in_step("b").await;
    mesh.end().await;
}

#[tokio::test]
async fn a_refusal_is_shown_in_the_replicas_words_and_retried() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.in_step("a").await;
    std::fs::write(mesh.theirs("refuse"), "server3 is the master of a").unwrap();
    mesh.push("a");
    let refused =
        |mesh: &Mesh| matches!(mesh.state("a"), Some(State::Failing { error, .. }) if error.contains("server3"));
    mesh.until("refused", refused).await;
    let by_hand = mesh.inner.push_now(&repo("a"), &server2(), SOON).await.expect_err("still refused");
    assert_eq!(by_hand.to_string(), "server3 is the master of a");
    std::fs::remove_file(mesh.theirs("refuse")).unwrap();
    mesh.in_step("a").await;
    mesh.land("a");
    let report = mesh.inner.push_now(&repo("a"), &server2(), SOON).await.expect("pushed");
    assert_eq!(report.refs, 1);
    let missing = mesh.inner.push_now(&repo("c"), &server2(), SOON).await.expect_err("no such repository");
    assert!(matches!(missing, MirrorError::NoRepository(_)), "{missing}");
    let stranger = mesh.inner.push_now(&repo("a"), &HostName::new("server9").unwrap(), SOON).await;
    assert!(matches!(stranger, Err(MirrorError::NotReplica { .. })));
    mesh.end().await;
}

#[tokio::test]
async fn a_peer_of_another_version_says_so_and_an_unknown_one_is_told_how_to_add() {
    let mesh = Mesh::start(&[]).await;
    std::fs::write(mesh.theirs("old"), "").unwrap();
    git_in(mesh.home.path(), &["init", "-q", "--bare", "-b", "trunk", mesh.ours("a").to_str().unwrap()]);
    mesh.inner.look_around(Look::All).await;
    let told = |mesh: &Mesh| matches!(mesh.state("a"), Some(State::Failing { error, .. }) if error.contains("not spoken here"));
    mesh.until("the version is told", told).await;
    mesh.push("a");
    mesh.until("pushes go there nevertheless", |mesh| mesh.state("a") == Some(State::InStep)).await;

    mesh.peers.send_replace(Arc::default());
    mesh.push("a");
    let unknown = |mesh: &Mesh| matches!(mesh.state("a"), Some(State::Failing { error, .. }) if error.contains("add-mirroring-peer"));
    mesh.until("unknown", unknown).await;
    std::fs::remove_file(mesh.theirs("old")).unwrap();
    mesh.peers.send_replace(mesh.server.peers());
    mesh.in_step("a").await;
    mesh.end().await;
}

/// Not a benchmark: it would show a timer or a dial on the way of a push.
#[tokio::test]
async fn a_push_waits_for_no_timer() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.in_step("a").await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        mesh.land("a");
        fastest = fastest.min(mesh.inner.push_now(&repo("a"), &server2(), SOON).await.unwrap().elapsed);
    }
    println!("fastest mirror push: {fastest:?}");
    assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    mesh.end().await;
}

#[tokio::test]
async fn a_new_configuration_has_only_new_copies_looked_at() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.settle().await;
    // Behind our back, so that only a comparison could find it.
    mesh.land("a");
    git_in(mesh.home.path(), &["init", "-q", "--bare", "-b", "trunk", mesh.ours("b").to_str().unwrap()]);
    mesh.land("b");
    let before = mesh.pushes.load(Ordering::SeqCst);
    mesh.inner.look_around(Look::Fresh).await;
    mesh.in_step("b").await;
    mesh.inner.look_around(Look::Fresh).await;
    assert_eq!(mesh.pushes.load(Ordering::SeqCst), before + 1);
    mesh.inner.look_around(Look::All).await;
    mesh.until("all are compared", |mesh| mesh.pushes.load(Ordering::SeqCst) == before + 2).await;
    mesh.in_step("a").await;
    mesh.end().await;
}

#[tokio::test]
async fn copies_that_the_peer_is_making_itself_cost_no_push() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.settle().await;
    let before = mesh.pushes.load(Ordering::SeqCst);
    let names: Vec<String> = (0..=MARKED_SINGLY).map(|n| format!("new{n}")).collect();
    // By rename, as repositories come into being.
    let make = |dir: PathBuf| {
        let making = mesh.home.path().join("making");
        git_in(mesh.home.path(), &["init", "-q", "--bare", "-b", "trunk", making.to_str().unwrap()]);
        std::fs::rename(making, dir).unwrap();
    };
    names.iter().for_each(|name| make(mesh.ours(name)));
    mesh.inner.look_around(Look::Fresh).await;
    mesh.until("seen", |mesh| matches!(mesh.state("new0"), Some(State::Missing { .. }))).await;
    names.iter().for_each(|name| make(mesh.theirs(&format!("{name}.git"))));
    let equal = |mesh: &Mesh| names.iter().all(|name| mesh.state(name) == Some(State::InStep));
    mesh.until("equal", equal).await;
    assert_eq!(mesh.pushes.load(Ordering::SeqCst), before);
    mesh.end().await;
}
