//! The sessions that need another node: copies, their repair, and the change of a master.

use std::fs;

use super::stage::{Stage, console, patterns};
use crate::world::{Actor, Node, Pair, World, eventually};

const RULES: &str = "\
repo docs
    RW+ = alice carol
    R   = bob
    option mirror.master = server1
    option mirror.copies = server2
";

/// Titles, what is said before, and sessions as those of one node: `WHO@NODE WORDS` goes to that node, and `! WORDS` is
/// something that happens without being typed, see [`act`].
const SESSIONS: &[(&str, &str)] = &[
    (
        "peer list, show, ping",
        "alice peer list\nalice peer show server2\nalice peer ping\nalice@server2 peer ping server1",
    ),
    ("doctor", "alice doctor"),
    (
        "mirror list, status, wait, verify, log",
        "alice mirror list\nbob mirror list docs --json\nalice mirror status\ncarol git push docs\ncarol mirror wait docs\n\
         carol mirror wait docs main --peer server2 --timeout 30s\n! in step\nbob mirror status docs\n\
         bob@server2 mirror status docs\nbob mirror verify docs\nalice mirror verify docs --deep\nbob mirror log docs",
    ),
    ("status", "alice status\nalice@server2 status"),
    ("events", "# It goes on until you leave:\nbob events --since 0 | head -n 2"),
    ("metrics", "alice metrics --summary | head -n 10\nalice metrics | grep ^gitmesh_mirror_repositories"),
    (
        "mirror pause, resume, push, pull",
        "alice mirror pause docs --reason 'new disk'\ncarol git push docs\nbob mirror status docs\ncarol mirror push docs\n\
         bob@server2 mirror pull docs\nalice mirror resume docs\n! in step\nbob mirror status docs\ncarol mirror push docs\n\
         carol mirror push server2 docs\nbob@server2 mirror pull docs\ncarol request-push docs\nbob mirror log docs",
    ),
    (
        "mirror repair, lost list, lost drop",
        "# Somebody has written to the copy on server2 by hand:\n! by hand\nbob mirror status docs\ncarol git push docs\n\
         carol mirror push docs\nbob mirror verify docs\nalice mirror repair server2 docs\n! in step\nbob mirror status docs\n\
         alice@server2 status\nbob@server2 mirror lost list\nalice@server2 mirror lost drop docs LOST\n\
         bob@server2 mirror lost list\nbob mirror lost list",
    ),
    (
        "mirror move",
        "alice mirror move docs --to server2\n! in step\nbob mirror list docs\ncarol git push docs\n\
         carol@server2 git push docs\n! in step\nbob@server2 mirror status docs\n\
         alice@server2 mirror move docs --to server1\n! in step\nbob mirror list docs",
    ),
    (
        "mirror promote",
        "# server1 takes a push that it cannot send on, and then its machine is gone:\n! cut\ncarol git push docs\n! kill\n\
         alice@server2 mirror promote docs\nalice@server2 mirror promote --all-from server1 --yes\n! start over\n\
         carol@server2 git push docs\nbob@server2 mirror list docs\n# It comes back:\n! back\nbob mirror list docs\n\
         carol git push docs\nbob@server2 mirror status docs\nbob mirror lost list docs\n\
         alice@server2 mirror lost drop docs --all\nbob@server2 mirror lost list\n\
         alice@server2 mirror move docs --to server1\n! in step",
    ),
    (
        "mirror promote --here",
        "# server1's disk is gone, and its backup, which lacks the last push, is restored:\n! back up\ncarol git push docs\n\
         ! restore\ncarol git push docs\nalice status\nalice mirror promote --here docs\n\
         alice mirror promote --here --all --yes\n! kept\nbob mirror lost list docs",
    ),
];

const PATTERNS: &[(&str, &str)] = &[
    (r"\(\d+&\)", "(4711&)"),
    (r#""at":\d+"#, r#""at":1795249800"#),
    (r#""id":\d+"#, r#""id":42"#),
    // The many ways in which nobody answers.
    (r"(cannot reach server\d at [a-z0-9.:]+): [^()]*(\(os error \d+\))?", "${1}: Connection refused (os error 111)"),
    (r"\bat [0-9a-f]{12}\b", "at b4d01e9a6c1f"),
    (r"\b20\d{6}T\d{6}Z", "20261121T083000Z"),
    (r"\b\d+ bytes", "231 bytes"),
    (r"(after|bytes,|already,|up,|refused for) [\d.]+ m?s\b", "${1} 20 ms"),
    (r"\b\d+ (s|min) ago", "2 s ago"),
    (r"(diverged|DOWN|\)) for \d+ (s|min)", "${1} for 2 s"),
    // Widths follow what was measured.
    (r"^ +server1 +server2 +gitmesh +git$", "           server1  server2  gitmesh     git"),
    (r"^  server1 +- .*$", "  server1        -   1.3 ms    0.1.0  2.47.3"),
    (r"^  server2 +[\d.]+ ms +- .*$", "  server2   1.1 ms        -    0.1.0  2.47.3"),
    (r"^(server\d .*?) +\d+ %  up", "${1}  19 %  up"),
    (r"\t[\d.]+ ms$", "\t1.3 ms"),
    (r"^(.{62}) +\d+ +(longer|[\d.]+ m?s) +(longer|[\d.]+ m?s)$", "${1}        42      20 ms     100 ms"),
];

/// The part of the reference that is played here, and the lines that have done what they are for.
pub fn chapters() -> (String, Vec<String>) {
    let world = World::new();
    let pair = world.pair();
    let alice = world.alice().clone();
    let people = [alice.clone(), world.actor("bob"), world.actor("carol")];
    for node in [&pair.two, &pair.one] {
        let configured = alice.configure(node, |c| {
            c.conf(RULES);
            people[1..].iter().for_each(|actor| c.key(actor));
        });
        configured.succeeds();
    }
    let work = people[2].starts(&pair.one, "docs");
    let commit = work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let well = |words: &str| act(&world, &pair, &people[2], words);
    well("in step");
    let masks = masks(&pair, &people);
    let mut stage = Stage {
        world: &world,
        nodes: vec![pair.one.clone(), pair.two.clone()],
        people: people.to_vec(),
        masks,
        patterns: patterns(PATTERNS),
        act: Box::new(well),
        trashed: String::new(),
        commit,
        phone: String::new(),
        lost: String::new(),
        code: String::new(),
        succeeded: Vec::new(),
    };
    let mut text = format!(
        "# With another node\n\nThe same commands where there is something to mirror: server1 and server2 know each other, and both have\n\n\
         ```\n{RULES}```\n\n"
    );
    for (title, session) in SESSIONS {
        text.push_str(&format!("## {title}\n\n{}", console(&mut stage, session)));
    }
    (text, stage.succeeded)
}

fn masks(pair: &Pair, people: &[Actor]) -> Vec<(String, String)> {
    let mut masks: Vec<(String, String)> =
        people.iter().map(|actor| (actor.fingerprint(), format!("SHA256:({}'s key)", actor.name()))).collect();
    masks.push((format!(" gitmesh {} ", env!("CARGO_PKG_VERSION")), " gitmesh 0.1.0 ".to_owned()));
    for (node, link) in [(&pair.one, &pair.back), (&pair.two, &pair.there)] {
        let name = node.name();
        masks.push((node.data().display().to_string(), "/var/lib/gitmesh".to_owned()));
        for port in [node.port(), link.port()] {
            masks.push((format!("ssh://git@127.0.0.1:{port}/"), format!("git@{name}:")));
            masks.push((format!("ssh -p {port} git@127.0.0.1"), format!("ssh git@{name}")));
            masks.push((format!("127.0.0.1:{port}"), format!("{name}.example.org:22")));
        }
    }
    masks
}

fn act(world: &World, pair: &Pair, carol: &Actor, words: &str) {
    let alice = world.alice();
    let says = |node: &Node, line: &str, words: &str| {
        eventually(&format!("'{words}' by '{line}' on {}", node.name()), || alice.ssh(node, line).has(words));
    };
    let work = || carol.checkout("new-server1-docs");
    match words {
        "in step" => {
            // Who has just become the master may be refused for a moment by the one that was, which is told at last.
            eventually("a push by the master", || {
                let master = alice.ssh(&pair.two, "mirror list master docs").succeeds().stdout;
                let master = if master.trim() == pair.one.name() { &pair.one } else { &pair.two };
                alice.ssh(master, "mirror push docs").code == Some(0)
            });
            pair.in_step("docs");
            for node in [&pair.one, &pair.two] {
                says(node, "mirror status docs", "in step");
            }
        }
        "by hand" => {
            let tree = pair.two.git("docs", &["rev-parse", "main^{tree}"]).succeeds().stdout;
            let author = ["-c", "user.name=eve", "-c", "user.email=eve@example.org"];
            let by_hand = [&author[..], &["commit-tree", "-m", "by hand", "-p", "main", tree.trim()]].concat();
            let commit = pair.two.git("docs", &by_hand).succeeds().stdout.trim().to_owned();
            pair.two.git("docs", &["update-ref", "refs/heads/main", &commit]).succeeds();
            alice.ssh(&pair.one, "mirror push docs").refused_by("never had");
            says(&pair.one, "mirror status docs", "diverged");
        }
        "cut" => {
            pair.there.cut();
            pair.back.cut();
            alice.ssh(&pair.one, "mirror push docs").refused_by("cannot reach");
            says(&pair.one, "mirror status docs", "failing");
        }
        "kill" => pair.one.kill9(),
        "start over" => {
            work().git(&["fetch", "-q", &carol.url(&pair.two, "docs"), "main"]).succeeds();
            work().git(&["reset", "-q", "--hard", "FETCH_HEAD"]).succeeds();
            says(&pair.two, "mirror status docs", "failing");
        }
        "back" => {
            pair.there.restore();
            pair.back.restore();
            pair.one.start();
            act(world, pair, carol, "in step");
            act(world, pair, carol, "kept");
        }
        "kept" => {
            for node in [&pair.one, &pair.two] {
                eventually("what one node alone had", || {
                    let listed = alice.ssh(node, "mirror lost list docs");
                    listed.has("heads/main") && !listed.has("not yet")
                });
            }
        }
        "back up" => {
            let backup = world.dir().join("backup").display().to_string();
            pair.one.gitmesh(&["backup", "create", &backup]).succeeds();
        }
        "restore" => {
            act(world, pair, carol, "in step");
            pair.one.kill9();
            fs::remove_dir_all(pair.one.data()).unwrap();
            let backup = world.dir().join("backup").display().to_string();
            pair.one.gitmesh(&["backup", "restore", &backup]).succeeds();
            pair.one.start();
        }
        _ => panic!("who does '{words}'?"),
    }
}
