//! Every command that people have over SSH, in sessions as they see them, refusals included. The sessions are the
//! reference: `docs/commands.md` is made of them (`make docs`) and must be what the program says today.

use std::fs;
use std::path::Path;

mod hostile_words;
mod stage;
mod two_nodes;

use crate::world::{Actor, Node, Running, World, eventually};
use stage::{Stage, chapter};

/// bob reads docs, carol writes it, dave is nobody special, erin has no right at all.
const RULES: &str = "\
repo docs
    RW+ = carol
    R   = bob
    option writer-is-owner = 1
repo secret
    RW+ = carol
repo pub/CREATOR/..*
    C   = bob carol
    RW+ = CREATOR
    RW  = WRITERS
    R   = READERS
repo gitmesh-admin
    option commands.enable = readme
    option commands.disable = events
repo old-name
    RW  = carol
repo shared-a shared-b
    RW  = @everybody
@staff = frank carol
@everybody = @staff bob
";

/// One line of a session: `WHO WORDS`, `WHO WORDS << TEXT` with a text that is piped in, `WHO git ARGUMENTS` for git
/// itself, and `# WORDS` for a remark. Names in the text: TRASHED is what `D list` has shown.
const SESSIONS: &[(&str, &str)] = &[
    ("info", "bob info\nbob info -lc pub/\nbob info -json docs\nerin info\nbob info (\nbob info -x"),
    (
        "help",
        "erin help create\nerin help frobnicate\n# What gitolite has and is spelt otherwise here:\nerin help newbranch\nerin list-users\nerin sskm list",
    ),
    ("whoami", "bob whoami\nalice whoami\nbob whoami --json"),
    (
        "access",
        "bob access docs bob W\nbob access docs carol W\nalice access docs carol W refs/heads/main --explain\n\
         alice access docs carol R --json\nerin access secret erin R\nerin access missing erin R\nbob access docs\n\
         # As scripts for gitolite ask:\nalice access -q docs bob W any\nalice access -s docs carol W main\n\
         alice access % bob R << docs\nsecret\nalice access -q % bob",
    ),
    ("explain", "erin explain E0202\nerin explain [w0132]\nerin explain E9999"),
    (
        "create",
        "bob create pub/bob/tools\nbob create pub/bob/tools\nbob create pub/carol/tools\nerin create pub/erin/x\n\
         bob create ../x",
    ),
    (
        "perms",
        "bob perms pub/bob/tools + READERS carol\nbob perms pub/bob/tools + READERS carol\nbob perms pub/bob/tools -l\n\
         bob perms pub/bob/tools -lr\nbob perms pub/bob/tools -l --json\n\
         bob perms pub/bob/tools -lr --json\nbob perms pub/bob/tools - READERS carol\n\
         bob perms pub/bob/tools << READERS carol\nWRITERS @staff\nbob perms pub/bob/tools -l\n\
         bob perms -c pub/bob/new << READERS @all\nbob perms pub/bob/tools + KINGS carol\n\
         carol perms pub/bob/tools + WRITERS carol\nerin perms pub/bob/missing -l\nbob perms",
    ),
    (
        "desc",
        "bob desc pub/bob/tools Tools of ours\ncarol desc pub/bob/tools\ncarol desc pub/bob/tools --json\n\
         carol desc docs Handbooks\nbob desc docs\nbob desc docs Mine\nerin desc docs\nerin desc missing\nbob desc",
    ),
    (
        "readme",
        "bob readme pub/bob/tools set << <h1>Tools</h1>\ncarol readme pub/bob/tools\ncarol readme pub/bob/tools rm\n\
         bob readme pub/bob/tools rm\ncarol readme pub/bob/tools\nerin readme docs",
    ),
    (
        "motd",
        "carol motd docs set << Freeze until Monday.\nbob git ls-remote docs\nbob motd docs --json\nbob motd docs rm\n\
         carol motd docs rm\n# The whole node's, which is shown with commands too:\n\
         alice motd @all set << This server moves on Friday.\nbob desc docs\nalice motd @all rm\nbob motd @all rm\n\
         bob motd @all on",
    ),
    (
        "writable",
        "alice writable docs off New disk until noon\ncarol git push docs\ncarol writable docs status --json\n\
         carol writable docs on\nalice writable docs on\ncarol git push docs\ncarol writable docs status\n\
         # Without a message it is read from the input:\nalice writable @all off << Back at noon.\n\
         carol git push docs\nalice writable @all on\nbob writable @all off x\nerin writable docs status\n\
         erin writable missing status\nbob writable docs maybe",
    ),
    (
        "symbolic-ref",
        "bob symbolic-ref docs HEAD\ncarol symbolic-ref docs HEAD refs/heads/next\nbob symbolic-ref docs --short HEAD\n\
         carol symbolic-ref docs HEAD refs/heads/main\nbob symbolic-ref docs --json HEAD\n\
         bob symbolic-ref docs HEAD refs/heads/next\nerin symbolic-ref docs HEAD\n\
         alice symbolic-ref gitmesh-admin HEAD refs/heads/other\nbob symbolic-ref docs -d HEAD",
    ),
    (
        "fork",
        "bob fork docs pub/bob/docs\nbob git ls-remote pub/bob/docs\nbob fork docs pub/bob/docs\nbob fork docs docs2\n\
         bob fork secret pub/bob/secret\nbob fork missing pub/bob/missing\nerin fork docs pub/erin/docs\nbob fork docs",
    ),
    (
        "git-config",
        "alice git-config docs gitolite-options.writer-is-owner\nalice git-config -r docs .\n\
         alice git-config --json -r docs writer\nalice git-config -r % writer << docs\nsecret\n\
         bob git-config -r docs .\nbob git-config secret foo.bar\nbob git-config -r docs (\nbob git-config docs",
    ),
    (
        "who-pushed",
        "bob who-pushed docs COMMIT\nbob who-pushed --tip docs COMMIT\nbob who-pushed --since 2099-01-01 docs COMMIT\n\
         bob who-pushed --json docs COMMIT\nbob who-pushed docs 00000000\nerin who-pushed docs COMMIT\n\
         erin who-pushed missing COMMIT\nbob who-pushed docs main\nbob who-pushed",
    ),
    (
        "audit",
        "alice audit search --user erin --kind command --result refused -n 2\nalice audit search --repo docs --kind push -n 2\n\
         alice audit search --repo docs --kind push --json -n 1\nalice audit tail -n 1\nalice audit verify\n\
         alice audit verify 00\nalice audit export --format gitolite --repo docs --kind push\n\
         alice audit search --user nobody\nalice audit search --since yesterday\nbob audit tail\nalice audit",
    ),
    ("creator", "bob creator pub/bob/tools\nbob creator pub/bob/tools carol\nbob creator docs\nerin creator secret"),
    ("owns", "bob owns pub/bob/tools\ncarol owns pub/bob/tools\nerin owns missing\nerin owns"),
    (
        "lock",
        "carol lock -l docs a\ncarol lock -ls docs\ncarol lock -ls docs --json\nbob lock -l docs a\ncarol lock -u docs a\n\
         carol lock -u docs a\ncarol lock -l docs a\ncarol lock --break docs a\ncarol lock --break docs a\n\
         erin lock -ls docs\ncarol lock",
    ),
    (
        "D",
        "bob D rm pub/bob/new\nbob D unlock pub/bob/new\nbob D lock pub/bob/new\nbob D trash pub/bob/new\nbob D list\n\
         bob D list-trash\nbob D list --json\nbob D restore TRASHED\nbob D unlock pub/bob/new\nbob D rm pub/bob/new\n\
         carol D trash pub/bob/tools\nalice D trash docs\nerin D trash pub/bob/missing\nbob D",
    ),
    (
        "keys",
        "carol keys list\ncarol keys list --json\ncarol keys add phone << PHONE\ncarol keys expire phone 2099-01-01\n\
         carol keys list\n# KEY is a name, a file, or a fingerprint:\ncarol keys expire phone never\n\
         carol keys remove phone\ncarol keys remove carol.pub\ncarol keys add phone << ssh-ed25519 AAAA\n\
         carol keys add << PHONE\ncarol keys remove laptop\ncarol keys approve abcd2345\ncarol keys reject abcd2345\ncarol keys list --user bob\n\
         # An administrator, for others:\nalice keys add phone --user bob --expires 2099-01-01 << PHONE\n\
         alice keys list --user bob\nalice keys remove phone --user bob\ncarol keys\n\
         # Where a second word is asked for, with option keys.approve = yes in gitmesh-admin:\n! approvals\n\
         carol keys add phone << PHONE\ncarol keys list\ncarol keys approve CODE\nalice keys approve CODE\n\
         carol keys remove phone\ncarol keys add phone << PHONE\nalice keys reject CODE\n! no approvals",
    ),
    (
        "sudo",
        "alice sudo bob create pub/bob/by-alice\nalice sudo bob access secret bob R\nbob sudo alice info\n\
         alice sudo bob sudo carol info\nalice sudo bob",
    ),
    (
        "user",
        "alice user list\nalice user show carol\nalice user show bob --json\nalice user show nobody\nalice user lint\n\
         alice user lint --json\nbob user list\nbob user show bob\nalice user",
    ),
    (
        "group",
        "alice group list\nalice group show @staff\nalice group show @everybody\nalice group show @staff --json\n\
         alice group show @none\nbob group list\nalice group show",
    ),
    (
        "repo",
        "alice repo list docs\nalice repo list ^pub/ --json\nalice repo show docs\nalice repo show missing\n\
         alice repo create handbooks\nalice repo create handbooks\nalice repo create guides --like docs\n\
         alice repo create more --like shared-b\nalice repo rename old-name archive/old\nalice repo rename archive/old docs\n\
         alice repo delete guides\nalice repo undelete guides\nalice repo delete shared-a\nalice repo delete missing\n\
         alice repo delete gitmesh-admin\nalice repo undelete missing\nbob repo list\nbob repo show docs\n\
         bob repo create mine\nbob repo delete docs\nbob repo rename docs new-name\nalice repo rename\n\
         alice repo fsck docs\nalice repo gc nothing\nalice repo gc docs\nbob repo gc docs",
    ),
    (
        "peer",
        "alice peer list\nbob peer list\nalice peer show server9\nalice peer ping\nalice peer ping server9\nbob peer ping",
    ),
    ("doctor", "bob doctor"),
    ("status", "alice status\nbob status"),
    ("metrics", "bob metrics"),
    ("events", "# Switched off here by option commands.disable:\nalice events"),
    (
        "mirror",
        "alice mirror status\nbob mirror status docs\nalice mirror list docs\nerin mirror status docs\n\
         bob mirror push docs\nbob mirror pause docs\nalice mirror wait docs --timeout 1s\nalice mirror log docs\n\
         alice mirror pull docs\nbob mirror resume docs\nalice mirror resume docs\nalice mirror verify docs\n\
         alice mirror repair server2 docs\nalice mirror promote docs --yes\nalice mirror promote --here docs --yes\n\
         alice mirror move docs --to server2\nbob mirror move docs --to server2\nalice mirror lost list\n\
         alice mirror lost drop docs --all\nbob mirror lost drop docs --all\nalice mirror frobnicate",
    ),
    ("request-push", "bob request-push docs"),
];

const CHAPTERS: &str = "docs/commands.md";

/// Set to write the document instead of comparing it: `make docs`.
const WRITE: &str = "GITMESH_DOCS";

#[test]
fn sessions_are_the_reference() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice().clone();
    let mut people: Vec<Actor> = ["bob", "carol", "erin"].iter().map(|name| world.actor(name)).collect();
    alice
        .configure(&node, |c| {
            c.conf(RULES);
            people.iter().for_each(|actor| c.key(actor));
        })
        .succeeds();
    people.insert(0, alice.clone());
    let work = people[2].starts(&node, "docs");
    let commit = work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let shown = ["SHA256:(alice's key)", "SHA256:(bob's key)", "SHA256:(carol's key)", "SHA256:(erin's key)"];
    let shown = shown.map(str::to_owned);
    let mut masks: Vec<(String, String)> = people.iter().map(Actor::fingerprint).zip(shown).collect();
    let phone = world.actor("phone");
    masks.push((phone.fingerprint(), "SHA256:(the phone's key)".to_owned()));
    let phone = phone.key_line().rsplit_once(' ').unwrap().0.to_owned();
    masks.push((node.data().display().to_string(), "/var/lib/gitmesh".to_owned()));
    masks.push((commit[..10].to_owned(), "5e1c309dae".to_owned()));
    masks.push((format!(" gitmesh {} ", env!("CARGO_PKG_VERSION")), " gitmesh 0.1.0 ".to_owned()));
    let mut stage = Stage {
        world: &world,
        nodes: vec![node.clone()],
        people,
        masks,
        patterns: Vec::new(),
        act: Box::new(|words| {
            let rules = match words {
                "approvals" => {
                    RULES.replace("option commands.enable", "option keys.approve = yes\n    option commands.enable")
                }
                "no approvals" => RULES.to_owned(),
                _ => panic!("who does '{words}'?"),
            };
            alice.configure(&node, |c| c.conf(&rules)).succeeds();
        }),
        trashed: String::new(),
        commit,
        phone,
        lost: String::new(),
        code: String::new(),
        succeeded: Vec::new(),
    };

    let mut text = "# Commands over SSH\n\nMade by `make docs` from sessions that the tests play; do not edit. On the machine the same commands are\n\
         `gitmesh COMMAND`. Here alice is an administrator; carol may write to `docs` and bob may read it; erin has no right\n\
         at all. `[exit N]` is the exit code where it is not 0. What needs another node is in the second part.\n\n"
        .to_owned();
    for (command, session) in SESSIONS {
        text.push_str(&chapter(&mut stage, command, session));
    }
    let mut succeeded = stage.succeeded;
    let (more, with_another) = two_nodes::chapters();
    text.push_str(&more);
    succeeded.extend(with_another);
    let text = text.trim_end().to_owned() + "\n";

    // None is left out, and each does somewhere what it is for.
    let idle = |form: &String| {
        let is_it =
            |line: &&String| line.strip_prefix(form).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        succeeded.iter().find(is_it).is_none()
    };
    let idle: Vec<String> = topics(&alice, &node).iter().flat_map(|usage| forms_of(usage)).filter(idle).collect();
    assert!(idle.is_empty(), "no session has one of these at work: {idle:?}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CHAPTERS);
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(kept.lines()).find(|(now, then)| now != then);
    assert!(
        text == kept,
        "{CHAPTERS} is not what the program says; 'make docs' writes it anew. First difference: {differs:?}"
    );
}

/// Every command with its arguments, as `help` lists them.
fn topics(alice: &Actor, node: &Node) -> Vec<String> {
    let told = alice.ssh(node, "help").succeeds().stdout;
    // What each is for stands behind at least one blank; usages hold single ones.
    let usages = told.lines().filter_map(|line| Some(line.strip_prefix('\t')?.split("  ").next()?.to_owned()));
    usages.collect()
}

/// `repo create` of `repo create REPO [--like OTHER]`.
fn command_of(usage: &str) -> String {
    let plain = |word: &&str| *word == "D" || word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    usage.split(' ').take_while(plain).collect::<Vec<_>>().join(" ")
}

/// Its commands, where one usage tells several: `peer list`, `peer show` and `peer ping`.
fn forms_of(usage: &str) -> Vec<String> {
    let command = command_of(usage);
    let usage = regex::Regex::new(r" \[[^\]]*\]").unwrap().replace_all(usage, "");
    let (noun, rest) = usage.split_once(' ').unwrap_or((&usage, ""));
    let word = rest.split(' ').next().unwrap_or_default();
    let is_choice = word.contains('|') && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'|');
    let choices: Vec<&str> = if is_choice {
        word.split('|').collect()
    } else if command != noun && rest.contains(" | ") {
        rest.split(" | ").filter_map(|part| part.split(' ').next()).collect()
    } else {
        return vec![command];
    };
    choices.into_iter().map(|choice| format!("{noun} {choice}")).collect()
}

/// What people have over SSH, the machine's own user has as `gitmesh COMMAND`, in the same words.
#[test]
fn the_machine_has_the_same_commands() {
    let world = World::new();
    let node = world.node("server1");
    world.alice().configure(&node, |c| c.conf(RULES)).succeeds();
    node.gitmesh(&["whoami"]).succeeds().says("user: local (this machine)");
    node.gitmesh(&["lock", "-ls", "docs", "--json"]).succeeds();
    node.gitmesh(&["create", "pub/bob/x"]).fails().does_not_say("unrecognized").does_not_say("unknown");
    node.gitmesh(&["fork", "docs", "pub/bob/y"]).fails().does_not_say("unrecognized").does_not_say("unknown");
    node.gitmesh(&["owns", "docs"]).does_not_say("unrecognized");
    node.gitmesh(&["request-push", "docs"]).fails().does_not_say("unrecognized").does_not_say("unknown");
    for usage in topics(world.alice(), &node) {
        let command = command_of(&usage);
        let mut words: Vec<&str> = command.split(' ').collect();
        words.push("-h");
        // Of these, some are carried out by the program itself, with more of their own.
        match words[0] {
            "help" => {}
            "access" | "doctor" | "peer" => drop(node.gitmesh(&words).succeeds().says(words[0])),
            _ => drop(node.gitmesh(&words).succeeds().says(&usage)),
        }
    }
}

/// What a command changes is changed where the master is, and what it says of pushes concerns users alone.
#[test]
fn commands_are_carried_to_the_master() {
    let world = World::new();
    let pair = world.pair();
    let mirrored = "    option mirror.master = server1\n    option mirror.copies = server2\n";
    let carried = format!("{mirrored}    option mirror.redirectOK = all\n");
    let conf = format!(
        "repo docs\n    RW+ = carol\n    option writer-is-owner = 1\n{carried}repo still\n    RW+ = carol\n    \
         option writer-is-owner = 1\n{mirrored}repo pub/CREATOR/..*\n    C = carol\n    RW+ = CREATOR\n{carried}"
    );
    let carol = world.actor("carol");
    for node in [&pair.two, &pair.one] {
        let configured = world.alice().configure(node, |c| {
            c.conf(&conf);
            c.key(&carol);
        });
        configured.succeeds();
    }
    let work = carol.starts(&pair.one, "docs");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("docs");

    let description = |node: &Node| fs::read_to_string(node.repo_dir("docs").join("description")).unwrap_or_default();
    carol.ssh(&pair.two, "desc docs Handbooks of ours").succeeds();
    assert_eq!(description(&pair.one), "Handbooks of ours\n");
    eventually("the description on the copy", || description(&pair.two) == "Handbooks of ours\n");
    carol.ssh(&pair.two, "desc still x").refused_by("is changed on its master server1").says("desc still");
    carol.ssh(&pair.two, "fork docs pub/carol/f").succeeds().says("docs forked to pub/carol/f");
    assert!(pair.one.has_repo("pub/carol/f"));
    pair.in_step("pub/carol/f");
    carol.ssh(&pair.two, "symbolic-ref docs HEAD refs/heads/next").succeeds().says("does not exist yet");
    assert_eq!(pair.one.head("docs"), "ref: refs/heads/next");
    world.alice().ssh(&pair.two, "sudo carol motd docs rm").succeeds();
    let commit = work.oid("HEAD");
    carol.ssh(&pair.two, &format!("who-pushed docs {commit}")).succeeds().says(" carol refs/heads/main ");

    // Pushes are off at the copy's node, and mirroring goes on.
    world.alice().ssh(&pair.two, "writable @all off x").succeeds();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("docs");
    world.alice().ssh(&pair.two, "writable @all on").succeeds();
    // Off on the master is off through the copy as well.
    pair.one.gitmesh(&["writable", "docs", "off", "new", "disk"]).succeeds();
    let through = carol.starts(&pair.two, "docs");
    through.git(&["pull", "-q", "origin", "main"]).succeeds();
    through.commit("a", "three");
    through.push(&["HEAD:main"]).refused_by("help: new disk").says("E0216");
}

/// Nobody learns from an answer whether what they may not read is there.
#[test]
fn what_is_absent_and_what_is_closed_answer_alike() {
    let world = World::new();
    let node = world.node("server1");
    let (carol, erin) = (world.actor("carol"), world.actor("erin"));
    let configured = world.alice().configure(&node, |c| {
        c.conf(RULES);
        c.key(&carol);
        c.key(&erin);
    });
    configured.succeeds();
    let connection = erin.shared_connection(&node);
    let lines = [
        "info ^REPO$",
        "access REPO erin R",
        "perms REPO -l",
        "perms REPO -lr",
        "perms REPO + READERS erin",
        "desc REPO",
        "desc REPO x",
        "readme REPO",
        "readme REPO rm",
        "motd REPO",
        "motd REPO rm",
        "writable REPO off x",
        "writable REPO status",
        "symbolic-ref REPO HEAD",
        "symbolic-ref REPO HEAD refs/heads/x",
        "fork REPO pub/carol/x",
        "git-config REPO a.b",
        "git-config -r REPO .",
        "creator REPO",
        "creator REPO carol",
        "owns REPO",
        "lock -ls REPO",
        "lock -l REPO a",
        "D trash REPO",
        "D rm REPO",
        "D unlock REPO",
        "create REPO",
        "mirror status REPO",
        "mirror push REPO",
        "who-pushed REPO abcd",
        "mirror list REPO",
        "mirror lost list REPO",
        "mirror lost drop REPO --all",
        "mirror wait REPO",
        "mirror log REPO",
        "mirror pull REPO",
        "request-push REPO",
        "repo rename REPO x",
        "mirror verify REPO",
        "mirror verify REPO --deep",
        "mirror repair REPO",
        "mirror pause REPO",
        "mirror resume REPO",
        "mirror promote REPO",
        "mirror promote --here REPO",
        "mirror move REPO --to server9",
        "repo list REPO",
        "repo show REPO",
        "repo create REPO",
        "repo create pub/x --like REPO",
        "repo delete REPO",
        "repo undelete REPO",
        "repo gc REPO",
        "repo fsck REPO",
        "user list REPO",
        "user show REPO",
        "group show @REPO",
        "audit search --repo REPO",
        "lock -u REPO a",
        "lock --break REPO a",
        "D lock REPO",
        "D restore REPO/2026-01-01_00:00:00",
        "sudo carol desc REPO",
        "creator -n REPO",
        "symbolic-ref REPO --short HEAD",
        "perms REPO << READERS erin",
        "perms -c REPO << READERS erin",
        "readme REPO set << x",
        "motd REPO set << x",
        "writable REPO off << x",
        "git-config -r % x << REPO",
        "git-config % a.b << REPO",
    ];
    let about = |usage: &String| ["REPO", "OLD", "FROM"].iter().any(|word| usage.contains(word));
    for usage in topics(world.alice(), &node).iter().filter(|usage| about(usage)) {
        let command = command_of(usage);
        let is_asked = lines.iter().any(|line| line.strip_prefix(&command).is_some_and(|rest| rest.starts_with(' ')));
        assert!(is_asked, "nothing is asked with '{command}'");
    }
    for line in lines {
        let ask = |repo: &str| {
            let line = line.replace("REPO", repo);
            let (words, input) = line.split_once(" << ").unwrap_or((&line, ""));
            let file = erin.dir().join("typed");
            fs::write(&file, format!("{input}\n")).unwrap();
            let mut command = connection.command(&[words]);
            command.stdin(fs::File::open(file).unwrap());
            let answer = Running::start(command).end();
            (answer.code, answer.stdout.replace(repo, "REPO"), answer.stderr.replace(repo, "REPO"))
        };
        assert_eq!(ask("secret"), ask("absent"), "{line}");
    }
}
