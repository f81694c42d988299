//! Waiting, pausing and verifying, with real git on the other end of a real SSH link.

use std::sync::atomic::Ordering;

use super::tests::{Mesh, SOON, repo, server2};
use super::*;
use crate::mirror::send_tests::git_in;

const SHORT: Duration = Duration::from_millis(300);

impl Mesh {
    fn pushes(&self) -> usize {
        self.pushes.load(Ordering::SeqCst)
    }

    async fn waits(&self, name: &str, want: &Want, peers: &Where, deadline: Duration) -> Waited {
        self.inner.wait(&repo(name), want, peers, deadline).await.expect("a repository that is mirrored")
    }

    /// The same node again, with an empty memory and the same disk.
    async fn restart(&mut self) {
        self.stop.cancel();
        timeout(SOON, &mut self.running).await.unwrap().unwrap();
        self.inner = Self::inner(&self.home, self.server.links().0);
        self.stop = CancellationToken::new();
        self.running = tokio::spawn(self.inner.clone().run(async || pending().await, self.stop.clone()));
    }

    async fn verdict(&self, name: &str, deep: bool) -> Verdict {
        let (to, mut found) = tokio::sync::mpsc::channel(1);
        self.inner.verify(|r| *r == repo(name), None, deep, &to).await;
        drop(to);
        let one = found.recv().await.expect("a copy").verdict;
        assert!(found.recv().await.is_none());
        one
    }
}

#[tokio::test]
async fn a_wait_ends_when_the_copy_has_it_and_not_before() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.in_step("a").await;
    mesh.land("a"); // nobody marks it: only an attempt that begins after the call can know
    let waited = mesh.waits("a", &Want::Now, &Where::All, SOON).await;
    assert!(waited.met && matches!(&waited.copies[..], [(peer, Arrival::There(_))] if *peer == server2()));
    assert_eq!(read_refs_there(&mesh), read_refs_here(&mesh));

    std::fs::write(mesh.theirs("refuse"), "the disk is full").unwrap();
    mesh.push("a");
    let waited = mesh.waits("a", &Want::Now, &Where::One(server2()), SHORT).await;
    let why =
        |waited: &Waited| matches!(&waited.copies[0].1, NotYet(State::Failing { error, .. }) if error.contains("full"));
    use Arrival::NotYet;
    assert!(!waited.met && why(&waited), "{waited:?}");
    // The deadline has not passed when the replica is mended; the wait sees the retry.
    let mend = async {
        std::fs::remove_file(mesh.theirs("refuse")).unwrap();
    };
    let all = Where::Count(1);
    let (waited, ()) = tokio::join!(mesh.waits("a", &Want::Now, &all, SOON), mend);
    assert!(waited.met);
    let two = mesh.waits("a", &Want::Now, &Where::Count(2), SOON).await;
    assert!(!two.met, "there is one copy only, so this is decided at once");
    let stranger = mesh.inner.wait(&repo("a"), &Want::Now, &Where::One(HostName::new("x").unwrap()), SOON).await;
    assert!(matches!(stranger, Err(MirrorError::NotReplica { .. })));
    mesh.end().await;
}

fn read_refs_there(mesh: &Mesh) -> String {
    crate::git::ref_state::read_refs(&mesh.theirs("a.git")).unwrap().digest()
}

fn read_refs_here(mesh: &Mesh) -> String {
    crate::git::ref_state::read_refs(&mesh.ours("a")).unwrap().digest()
}

#[tokio::test]
async fn a_reference_is_waited_for_although_another_is_refused() {
    let mesh = Mesh::start(&["a"]).await;
    mesh.in_step("a").await;
    let hook = mesh.theirs("a.git/hooks/update");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\ncase $1 in refs/heads/bad) echo no >&2; exit 1;; esac\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let oid = super::send_tests::commit(&mesh.ours("a"), "one", &[]);
    for name in ["refs/heads/good", "refs/heads/bad"] {
        git_in(&mesh.ours("a"), &["update-ref", name, &oid]);
    }
    mesh.inner.mark(&repo("a"));
    let name = |n: &str| RefName::parse(n).unwrap();
    let good = Want::Ref(name("refs/heads/good"));
    assert!(mesh.waits("a", &good, &Where::All, SOON).await.met);
    let at = Want::RefAt(name("refs/heads/good"), Oid::parse(&oid).unwrap());
    assert!(mesh.waits("a", &at, &Where::All, SOON).await.met);
    let bad = Want::Ref(name("refs/heads/bad"));
    let waited = mesh.waits("a", &bad, &Where::All, SHORT).await;
    assert!(!waited.met, "[remote rejected] is no success: {waited:?}");
    let gone = mesh.inner.wait(&repo("a"), &Want::Ref(name("refs/heads/none")), &Where::All, SOON).await;
    assert!(matches!(gone, Err(MirrorError::NoRef { .. })));
    mesh.end().await;
}

#[tokio::test]
async fn a_pause_stops_everything_also_after_a_restart_and_resuming_catches_up() {
    let mut mesh = Mesh::start(&["a", "b"]).await;
    mesh.in_step("a").await;
    mesh.in_step("b").await;
    let mut events = mesh.inner.history().subscribe(None).coming;
    let scope = Scope::Copy(repo("a"), server2());
    assert_eq!(mesh.inner.pause(scope.clone(), "alice", "moving its disk").unwrap(), (1, true));
    assert_eq!(mesh.inner.pause(scope.clone(), "bob", "").unwrap(), (1, false));
    let told = loop {
        let event = events.recv().await.unwrap();
        if event.json["event"] == "paused" {
            break event;
        }
    };
    assert_eq!(told.json["detail"], "by alice: moving its disk");
    let before = mesh.pushes();
    for restarted in [false, true] {
        if restarted {
            mesh.restart().await;
            mesh.until("b compared", |mesh| mesh.state("b") == Some(State::InStep)).await;
        }
        mesh.push("a");
        let waited = mesh.waits("a", &Want::Now, &Where::All, SOON).await;
        assert!(!waited.met);
        assert!(
            matches!(&waited.copies[0].1, Arrival::NotYet(State::Paused { by, behind: true, .. }) if by == "alice (moving its disk)")
        );
        let by_hand = mesh.inner.push_now(&repo("a"), &server2(), SOON).await.unwrap_err();
        assert!(by_hand.to_string().contains("paused by alice"), "{by_hand}");
        assert!(matches!(mesh.verdict("a", true).await, Verdict::Paused(_)));
        // The other repository goes on, so the queue has been served meanwhile.
        mesh.push("b");
        assert!(mesh.waits("b", &Want::Now, &Where::All, SOON).await.met);
    }
    let log = std::fs::read_to_string(mesh.theirs("../state/mirror.log")).unwrap_or_default();
    assert!(log.contains("\"paused\""), "{log}");
    assert_eq!(mesh.inner.resume(&Scope::Peer(server2()), "bob").unwrap().len(), 1);
    mesh.in_step("a").await;
    assert!(mesh.pushes() > before);
    assert!(mesh.inner.resume(&scope, "bob").unwrap().is_empty());
    mesh.end().await;
}

#[tokio::test]
async fn verifying_finds_what_no_mark_told_and_damage_on_either_side() {
    let mut mesh = Mesh::start(&["a"]).await;
    mesh.in_step("a").await;
    mesh.push("a");
    assert!(mesh.waits("a", &Want::Now, &Where::All, SOON).await.met);
    assert!(matches!(mesh.verdict("a", false).await, Verdict::Equal { deep: false }));
    assert!(matches!(mesh.verdict("a", true).await, Verdict::Equal { deep: true }));
    mesh.land("a");
    assert!(matches!(mesh.verdict("a", false).await, Verdict::Differs));
    mesh.in_step("a").await; // what was found is mended
    // The object that a reference names is lost there; its references still look the same.
    let objects = mesh.theirs("a.git/objects");
    for entry in std::fs::read_dir(&objects).unwrap().map(|e| e.unwrap()) {
        if entry.file_name().len() == 2 || entry.file_name() == "pack" {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    assert!(matches!(mesh.verdict("a", false).await, Verdict::Equal { deep: false }));
    let damaged = mesh.verdict("a", true).await;
    assert!(
        matches!(&damaged, Verdict::Damaged { here, there } if here.is_empty() && !there.is_empty()),
        "{damaged:?}"
    );
    std::fs::remove_dir_all(mesh.theirs("a.git")).unwrap();
    assert!(matches!(mesh.verdict("a", false).await, Verdict::Missing));
    mesh.in_step("a").await;
    mesh.server.cut(false).await;
    assert!(matches!(mesh.verdict("a", false).await, Verdict::Failed(_)));
    mesh.end().await;
}
