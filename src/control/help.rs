//! What each command is for, how it is spelled, and what it answers: one table for every door.

use super::Reply;
use super::switches::Switches;

/// One command.
struct Topic {
    /// Its words, and the rest of its grammar.
    usage: &'static str,
    what: &'static str,
    /// The long story, in whole lines; may be empty.
    more: &'static str,
}

const fn topic(usage: &'static str, what: &'static str, more: &'static str) -> Topic {
    Topic { usage, what, more }
}

const TOPICS: &[Topic] = &[
    topic("create REPO", "make a repository where a C stands in 'info'; a clone or push does so too", ""),
    topic("help [COMMAND]", "this list, or the story of one command", ""),
    topic("info [-lc] [-ld] [-p] [-json] [PATTERN]", "who you are here, and your repositories with your rights", INFO),
    topic("access [-q | -s] REPO USER [PERM [REF]] [--explain] [--json]", "may they, and which rule says so", ACCESS),
    topic("explain [CODE]", "the long story of a message, by the code at its end", ""),
    topic(
        "perms REPO -l | -lr [--json] | + ROLE USER | - ROLE USER",
        "the roles that you give in a repository you made",
        "",
    ),
    topic("lock -l | -u | --break REPO FILE", "lock a file, give the lock back, or break somebody else's", LOCK),
    topic("lock -ls REPO [--json]", "who has locked which files", ""),
    topic("D trash|list|restore|unlock|lock|rm [REPO[/TIME]]", "delete a repository you made, or bring it back", D),
    topic("fork FROM TO", "make a repository of your own that begins with all that another one has", FORK),
    topic("desc REPO [TEXT...] [--json]", "show or set a repository's description", DESC),
    topic("readme REPO [set | rm] [--json]", "show, set (from the input) or remove README.html, for gitweb", README),
    topic("motd REPO|@all [set | rm] [--json]", "show, set (from the input) or remove the message of the day", MOTD),
    topic("writable REPO|@all on | off [MESSAGE...] | status [--json]", "switch pushes off for a while", WRITABLE),
    topic("symbolic-ref REPO [--short] [-q] [--json] HEAD [refs/heads/BRANCH]", "the default branch", HEAD),
    topic("git-config [-n] [-q] [-r] [-ev] [--json] REPO KEY|PATTERN", "what the configuration says for it", CONFIG),
    topic("who-pushed [--tip] [--since TIME] [--json] REPO COMMIT", "whose push brought a commit", WHO),
    topic("audit search|tail|verify|export [...]", "what happened, by whom, from where; for administrators", AUDIT),
    topic("keys list [--json] [--user U | --all]", "your SSH keys: file, end, last use on this node", KEYS),
    topic("keys add [NAME] [--expires TIME] [--user U]", "add a key, which is read from the input", KEYS_ADD),
    topic("keys expire KEY TIME|never [--force] [--user U]", "say until when a key opens anything", KEYS_CHANGE),
    topic("keys remove KEY [--force] [--user U]", "take a key away", KEYS_CHANGE),
    topic("keys approve CODE", "let a key in that waits for a second word", KEYS_APPROVE),
    topic("keys reject CODE", "have it wait no more", ""),
    topic("creator [-n] REPO [USER]", "who made a repository; with USER, only by the exit code", ""),
    topic("owns REPO", "whether you own a repository, by the exit code", ""),
    topic("sudo USER COMMAND [ARGUMENTS...]", "give a command as somebody else; for administrators", ""),
    topic(
        "repo list [PATTERN] [--json]",
        "every repository: size, last change, master, copies; for administrators",
        "",
    ),
    topic("repo show REPO [--json]", "one repository: its rules by line, options, settings, copies, upkeep", ""),
    topic("repo create REPO [--like OTHER]", "name a new repository in the rules; for administrators", CREATE),
    topic("repo delete REPO", "take a repository out of the rules, and into the trash; for administrators", DELETE),
    topic("repo undelete REPO[/TIME]", "bring back what was deleted, with its rules; for administrators", UNDELETE),
    topic("repo rename OLD NEW", "give a repository another name, in the rules too; for administrators", RENAME),
    topic("repo gc REPO|PATTERN", "repack repositories now; for administrators", ""),
    topic("repo fsck REPO|PATTERN", "read and check every object of repositories now; for administrators", ""),
    topic("user list [PATTERN] [--json]", "everybody with a key or in a rule; for administrators", ""),
    topic("user show USER [--json]", "somebody's keys, groups and repositories, and when they were here last", ""),
    topic("user lint [--json]", "users without a key, keys without a rule, repeated keys; for administrators", LINT),
    topic("group list [PATTERN] [--json]", "the groups of the rules; for administrators", ""),
    topic("group show @GROUP [--json]", "who is in a group, by which line, and where it is used", ""),
    topic("peer list | show NODE | ping [NODE]", "the other nodes, and whether both directions work", PEER),
    topic("doctor [--json]", "every pair of nodes, clocks, versions, disks: what is wrong and its cure", DOCTOR),
    topic("whoami [--json]", "the user, key and node of this connection", ""),
    topic("status [--json] [--watch]", "one screen: nodes, lag, what needs attention; for administrators", OVERVIEW),
    topic("metrics [--summary]", "what this node has counted, for Prometheus; for administrators", METRICS),
    topic(
        "events [--since ID] [--json]",
        "what happens, an object a line, until you leave; or since an event's id",
        "",
    ),
    topic("mirror status [REPO|PATTERN] [--json] [--watch]", "where the copies stand", STATUS),
    topic("mirror push [PEER] REPO [--force]", "bring copies up to date now", PUSH),
    topic("mirror pull REPO [--force]", "have the master of a copy push it now, or ask an upstream", PULL),
    topic(
        "mirror wait REPO [REF] [--peer P|--all|--count N] [--timeout T] [--json]",
        "return when copies have what is here now",
        WAIT,
    ),
    topic("mirror pause REPO|--all [--peer P] [--reason TEXT]", "stop the pushes to copies", PAUSE),
    topic("mirror resume REPO|--all [--peer P]", "let them go on", ""),
    topic("mirror verify [REPO|PATTERN] [--peer P] [--deep] [--json]", "compare copies with what is here", VERIFY),
    topic("mirror repair [PEER] REPO", "make a copy that has diverged, or is held back, equal", REPAIR),
    topic(
        "mirror promote REPO...|--all-from NODE [--yes] [--force]",
        "make this node the master of its copies",
        PROMOTE,
    ),
    topic("mirror promote --here REPO...|--all [--yes]", "after a restore: what this node has is what counts", HERE),
    topic("mirror move REPO --to NODE", "hand a repository over to one of its replicas; loses nothing", HANDOVER),
    topic("mirror lost list [REPO|PATTERN] [--json]", "what one node alone had, and is kept aside", LOST),
    topic("mirror lost drop REPO NAME...|--all", "let go of it, on all nodes", LOST_DROP),
    topic("mirror list [REPO|PATTERN] [--json]", "which node is master, and which hold copies", ""),
    topic("mirror log REPO [--limit N] [--json]", "what has happened to a repository's copies", ""),
    topic("request-push REPO [-fg] [PEER|LIST...]", "gitolite 2's 'mirror push REPO'", ""),
];

const ACCESS: &str = "\
The answer is in gitolite's words and in the exit code: 0 allowed, 1 denied. -q tells it by the exit code alone, -s shows
the rules tried, each with gitolite's letter, --explain tells them in words.
'%' as REPO, USER or both reads them from the input: 'REPO USER' a line, or the one of them; answers are lines, too.
";
const INFO: &str = "\
\x20 -lc      show who made each repository
  -ld      show each repository's description
  -p       leave out the patterns of repositories that you may make
  -json    one object, schema gitmesh.info/1: gitolite's GL_USER, USER, git_version, gitolite_version and repos (name
           to perms {R, W, C: 1}, creator with -lc, description with -ld), and gitmesh's node, version, and copy_of
           and freshness for a copy; also spelt --json
  PATTERN  an unanchored regular expression on the names

A repository whose master is another node has one more column: whose copy it is and how fresh. Only the master can say
that a copy is in step, so a copy of a master that has not been heard lately is marked so.
";

const LOCK: &str = "\
For whoever may write to the repository; --break needs RW+. FILE is its path from the top. While a file is locked, a
rule '- VREF/lock = @all' of the repository refuses pushes by others that change it. The locks are kept by the master.
";

const D: &str = "\
In gitolite's words:
  D trash REPO           move it to the trash, here and on its copies
  D list [--json]        what of yours is in the trash, and until when; 'D list-trash' tells the names alone
  D restore REPO/TIME    bring it back, here and on its copies
  D unlock REPO          allow the next
  D rm REPO              delete it for good here; its copies move to the trash
  D lock REPO            take that back; a new repository is locked

For owners of repositories that users made, and for administrators. One that the configuration names is taken out of the
rules first. What is in the trash goes by itself after trash_keep (gitmesh.toml, 30 days).
";

const FORK: &str = "\
You need R for FROM, and a C in 'info' for TO, which becomes yours, with its branches and tags, the default roles and
no tie to FROM. It costs no time and no space, however large FROM is.
";

const DESC: &str = "\
To show it, you need to be allowed to read. To change it, the repository must be yours, or you may write to it and it has
option writer-is-owner. What a 'desc =' line of the configuration says is changed there.
";

const README: &str = "\
Like 'desc', in whole HTML. This command is off unless 'option commands.enable = readme' of gitmesh-admin switches it on,
since gitweb shows the text as it is, scripts included.
";

const MOTD: &str = "\
Whoever fetches or pushes reads it, the node's (@all) first; the node's is also shown with each command. To change it, the
repository must be yours, or you may write to it and it has option writer-is-owner; @all is for administrators.
";

const WRITABLE: &str = "\
While pushes are off, they are refused with MESSAGE (without it, with what is typed). Mirroring goes on. 'status' tells by
its exit code: 0 on, 1 off. For owners and administrators, 'status' for whoever may write; @all, the whole node, for
administrators.
";

const HEAD: &str = "\
Shows the branch that a clone checks out, for whoever may read; sets it, for whoever may write. HEAD is the only one.
";

const WHO: &str = "\
COMMIT is four or more of its first digits. A line a push, newest first: time (UTC), number, user, reference, old and new.
  --tip     only pushes that ended at it, without a look at the history
  --since   only pushes since: 2026-11-21, 2026-11-21T08:30:00Z, or how long ago, 7d
Known from the audit of the repository's master, as long as that is kept ([audit] keep), and from gitolite's gl-log.
";

const AUDIT: &str = "\
\x20 audit search [FILTERS] [-n N] [--json]     the newest N (1000), older ones first; exit code 1 if there are none
  audit tail [-n N] [-f] [FILTERS] [--json]  the last N (20); -f goes on
  audit verify [HASH]                        whether the chain of records is whole, and holds this hash
  audit export [--format ndjson|gitolite] [FILTERS]
FILTERS: --user U, --repo REPO|PATTERN, --kind access|push|create|command|auth|audit, --result ok|refused|failed, --ref R,
--key FINGERPRINT, --from ADDRESS, --since TIME, --until TIME. 'verify' tells the hash of the newest record: keep it
elsewhere, and whoever writes the history anew is found out.
";

const KEYS: &str = "\
Columns, divided by tabs: fingerprint, type, bits, file in gitmesh-admin, end, last use on this node (as far as its audit
tells), comment; then what waits for approval, on the master of gitmesh-admin. Exit code: 1 there is none.
  --json   one object, schema gitmesh.keys/1
Others' keys (--user, --all) are for administrators.
";
const KEYS_ADD: &str = "\
ssh git@host keys add laptop < ~/.ssh/id_ed25519.pub: it becomes keydir/USER@laptop.pub of gitmesh-admin, by a commit of
yours. Without NAME the machine in the key's comment is taken. TIME as in 'keys expire'.
What may be added is said by options of gitmesh-admin: keys.self, keys.types, keys.proof (sign with the new key first; the
refusal tells how) and keys.approve (a second key of yours, or an administrator, approves). Exit code: 3 something is
still to be done.
";
const KEYS_CHANGE: &str = "\
KEY is a fingerprint (or its first eight digits), the NAME it was added under, or its file. TIME is a date or a moment in
UTC (2026-12-01, 2026-12-01T15:30Z), how long from now (30d), now, or never. From then on the key is refused, on open
connections too.
  --force   also when it is the last key that opens anything for this user
";
const KEYS_APPROVE: &str = "\
On a connection with another key than the one that asked; administrators with any. 'keys list' tells the codes.
";

const CONFIG: &str = "\
\x20 -r       KEY is an unanchored regular expression; prints repository, key and value, divided by tabs
  -q       by the exit code alone: 0 there is one, 1 there is none
  -n       no newline behind the value
  -ev      keys with an empty value too
REPO or KEY may be %: then they are read from the input, a line each. Options (gitolite-options.*) are told to those who
may read the rules.
";

const CREATE: &str = "\
Adds a block to the rules, as a commit of yours in gitmesh-admin: 'RW+ = you', or the lines that give OTHER its rules. Where
those come by a group or a pattern, the answer says which lines a person must change.
";

const DELETE: &str = "\
Takes out the blocks that name REPO alone, as a commit of yours in gitmesh-admin, and moves it to the trash with them. Where
it is named together with others, or by a group, nothing is changed and the answer says which lines a person must change;
then: D trash REPO.
";

const UNDELETE: &str = "\
Without TIME, what was deleted last. The rules that were taken out come back as a commit of yours in gitmesh-admin.
";

const RENAME: &str = "\
On the lines that name OLD, the rules get NEW for it, as a commit of yours in gitmesh-admin; then the repository moves, and
its copies follow without a transfer. Where the rules were changed by hand, it moves: an empty NEW makes way.
";

const LINT: &str = "\
The remarks of 'gitmesh check' about people and keys; a key that is too weak opens nothing.
Exit code: 0 there is nothing to say, 1 there is.
";

const DOCTOR: &str = "\
For administrators. Each node is asked what it sees of the others and of itself; nothing is changed. It fails with 1 when
somebody must act.
";

const PEER: &str = "\
For administrators. 'ping' greets a node and has it greet back, with the nodes' own keys; without a name, every node.
Nodes are invited, joined, added and removed on the machine itself: 'gitmesh peer help'.
";
const OVERVIEW: &str = "\
Each node with the generation of its configuration, how many of its copies lack something, the age of the oldest change
that is lacking, its disk and its link; then the copies that fail, wait for a decision or have been on their way for longer
than [mirror] alarm_after, and how many others are on their way or held back.
Exit code: 0 all is well, 1 something needs attention. --json is one object, schema gitmesh.status/1.
";
const METRICS: &str = "\
Counters and histograms since the node's start: handshakes, sessions, first bytes, queueing, git's processes, hooks; and
how the copies stand. In Prometheus' text format, on the machine as 'gitmesh metrics'.
  --summary   the histograms in words: count, median and 99th percentile, each as the bound that it lies within
";
const STATUS: &str = "\
Columns: repository, node of the copy, how it is. A copy elsewhere of what is mastered here is known by comparing; a copy
here of another node's repository by what that master tells every few seconds. What one node alone had follows, by repository,
or of one REPO by name (mirror lost).
  --json    one object, schema gitmesh.mirror.status/1
  --watch   again at each change: on a terminal the screen is redrawn, otherwise only what has changed is told,
            a line each (--json: an object a line)
Exit code: 0 all in step, paused, or kept by hand; 1 some are not; 4 nothing is meant by this.
gitolite's forms: 'mirror status all all' names the repositories with trouble, 'mirror status COPY|all REPO' tells it.
";
const PUSH: &str = "\
Without PEER, to all of its copies and foreign targets (option mirror.external). For whoever may write to the repository.
  --force   also when a guard holds it back, because much would be deleted, and on a foreign target over what others have
            put there, which is kept here under refs/gitmesh/lost/NAME/TIME/; for administrators
Given over SSH on a replica, this, 'wait', 'pause', 'resume' and 'repair' are carried to the master (mirror.redirectOK).
Exit code: 0 done, 4 no such copy, 7 failed.
";
const PULL: &str = "\
On the node of a copy its master is asked to push; on a master with 'option mirror.upstream' the upstream is asked now.
  --force   also when the upstream has lost most of what is here, which is kept under refs/gitmesh/lost/; for administrators
";
const WAIT: &str = "\
REF is a branch or a full reference name; without it everything that is here counts. --all is the default.
  --timeout T   60s if not given, as '30s' or '5m'
Exit code: 0 they have it, 8 not within that time, or they cannot get it.
";
const PAUSE: &str = "\
For administrators; it stands across restarts. '--all --peer P' is everything on one node.
";
const VERIFY: &str = "\
Compares references, HEAD and what else is mirrored; what differs is pushed.
  --deep    has git read every object on both sides, and tells of each copy when it is done; for administrators
Exit code: 0 all equal, 1 some are not, 4 nothing is meant by this.
";
const REPAIR: &str = "\
What the copy has and its master lacks is kept there under refs/gitmesh/lost/. A copy in which git finds damage is made
anew from its master; the old one goes to the trash there. For administrators.
";

const PROMOTE: &str = "\
When a master is gone: on a node that holds copies of what it mastered. Tells when the master was last heard, how far each
copy is, and whether another replica is further; with --yes it raises the epoch and takes pushes from then on. The other
nodes follow, the old master too when it is back: what only it had is kept on both nodes under refs/gitmesh/lost/ and
reported. It counts for as long as the configuration names the old master; write the new one there to make it permanent.
  --force   also when the old master is alive, or another replica is further
For administrators. Exit code: 0 done, 1 refused, 3 not confirmed, 4 no such copy here.
";
const HERE: &str = "\
A disk that was restored from a backup, or is new under an old name, is no master before a person decides: 'mirror promote'
on a replica, which then fills this node, or this command, which declares what is here good. For administrators.
";
const LOST: &str = "\
A master that was replaced, a copy that was repaired and a foreign target that was overwritten may have had what nobody
else has. It is kept, hidden from git, as refs/gitmesh/lost/NODE/TIME/..., NODE being who had it. Columns: repository, name,
object, whose it was. To look at one, in any clone and with the right to read: git fetch URL OBJECT, then git log FETCH_HEAD;
to bring it back: git push URL FETCH_HEAD:refs/heads/NAME. 'status' counts them until somebody lets go of them.
";
const LOST_DROP: &str = "\
NAME as 'mirror lost list' tells it, with or without refs/gitmesh/lost/. Given on the master, the other nodes let go of it
too. The objects go with a later 'repo gc'. For administrators.
";
const HANDOVER: &str = "\
On the master. The copy is brought in step first; then pushes are refused for a moment, with the request to try again. If
anything fails the old master goes on. For administrators.
";

/// The words that name a command: those before its first argument.
fn words(usage: &str) -> impl Iterator<Item = &str> {
    // gitolite's one command in capitals is no argument.
    usage.split(' ').take_while(|word| *word == "D" || word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
}

/// What a first word is for that several commands have.
const NOUNS: &[(&str, &str)] = &[
    ("lock", "Files that one person works on at a time: 'lock -l REPO FILE', 'lock -ls REPO'"),
    ("keys", "Users' SSH keys: 'keys list|add|expire|remove|approve [--user NAME]'"),
    ("repo", "Repositories as a whole: 'repo list|show|create|delete|undelete|rename|gc|fsck'"),
    ("user", "Everybody with a key or in a rule: 'user list', 'user show USER', 'user lint'"),
    ("group", "The groups of the rules: 'group list', 'group show @GROUP'"),
    ("mirror", "Where the copies stand; 'mirror push PEER REPO' brings one up to date"),
];

/// Each first word that a command has, and what it is for, in the order of the list.
pub fn nouns() -> Vec<(&'static str, &'static str)> {
    let mut nouns: Vec<(&str, &str)> = Vec::new();
    for Topic { usage, what, .. } in TOPICS {
        let noun = usage.split(' ').next().unwrap_or_default();
        if nouns.iter().all(|(known, _)| *known != noun) {
            let of_many = NOUNS.iter().find(|(known, _)| *known == noun);
            nouns.push((noun, of_many.map_or(*what, |(_, what)| what)));
        }
    }
    nouns
}

/// All that there is to say of the commands that begin with `noun`, for a manual.
pub fn manual(noun: &str) -> String {
    let topics = TOPICS.iter().filter(|topic| topic.usage.split(' ').next() == Some(noun));
    topics.map(told).collect::<Vec<_>>().join("\n")
}

/// How many words name the command that is given, if it is one about a repository.
pub(super) fn about_a_repo(given: &[&str]) -> Option<usize> {
    let named = |topic: &Topic| words(topic.usage).collect::<Vec<_>>();
    let found = TOPICS.iter().filter(|topic| given.starts_with(&named(topic)) && !named(topic).is_empty());
    let topic = found.max_by_key(|topic| named(topic).len())?;
    let about = ["REPO", "OLD", "FROM"].iter().any(|word| topic.usage.contains(word));
    about.then(|| named(topic).len())
}

fn told(topic: &Topic) -> String {
    let Topic { usage, what, more } = topic;
    let gap = if more.is_empty() { "" } else { "\n" };
    format!("usage: {usage}\n\n{what}\n{gap}{more}")
}

/// The commands with what each is for, in gitolite's shape.
pub(super) fn list(on: &Switches) -> String {
    let mut out = "\nlist of remote commands available:\n\n".to_owned();
    let is_on = |usage: &str| usage.split(' ').next().is_some_and(|command| on.is_on(command));
    for Topic { usage, what, .. } in TOPICS.iter().filter(|topic| is_on(topic.usage)) {
        out.push_str(&format!("\t{usage:<51}  {what}\n"));
    }
    out.push_str("\n'help COMMAND' or 'COMMAND -h' tells more.\n");
    out
}

/// The story of the command that these words begin or name: of one, or of all whose first word it is.
pub fn usage(about: &[&str]) -> Option<String> {
    let begins = |topic: &&Topic| {
        let mut named = words(topic.usage);
        !about.is_empty() && about.iter().all(|word| named.next() == Some(word))
    };
    // Arguments may follow the command's own words.
    let names = |topic: &&Topic| {
        let named: Vec<&str> = words(topic.usage).collect();
        about.starts_with(&named)
    };
    let mut found: Vec<&Topic> = TOPICS.iter().filter(begins).collect();
    if found.is_empty() {
        found = TOPICS.iter().filter(names).collect();
    }
    match found[..] {
        [] => None,
        [one] => Some(told(one)),
        ref many => {
            let width = many.iter().map(|t| t.usage.len()).max().unwrap_or(0);
            let lines = many.iter().map(|t| format!("  {:width$}  {}\n", t.usage, t.what));
            Some(format!("usage:\n{}\n'help COMMAND' tells more of one.\n", lines.collect::<String>()))
        }
    }
}

pub(super) fn about(words: &[&str]) -> Reply {
    match usage(words) {
        Some(text) => Reply::done(text),
        None => {
            let instead = words.first().and_then(|command| super::absent::instead(command));
            let instead = instead.map_or_else(|| "'help' lists them".to_owned(), str::to_owned);
            Reply::fail(4, format!("there is no command '{}'; {instead}", words.join(" ")))
        }
    }
}

/// What a command that was given wrong words is told.
pub(super) fn wrong(about: &[&str]) -> Reply {
    Reply { out: String::new(), err: usage(about).unwrap_or_default(), code: 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_or_all_of_a_noun() {
        let push = usage(&["mirror", "push"]).expect("a command");
        assert!(push.starts_with("usage: mirror push [PEER] REPO [--force]\n"), "{push}");
        assert_eq!(usage(&["mirror", "push", "server2", "testing"]), Some(push), "its arguments may be there already");
        let all = usage(&["mirror"]).expect("a noun");
        assert!(all.contains("mirror status") && all.contains("mirror push"), "{all}");
        assert_eq!((usage(&["frobnicate"]), usage(&[])), (None, None));
        for topic in TOPICS {
            let named: Vec<&str> = words(topic.usage).collect();
            assert!(usage(&named).is_some_and(|u| u.contains(topic.usage)), "{}", topic.usage);
        }
    }
}
