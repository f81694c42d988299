//! git-fsck(1), and which of its findings are damage.
//!
//! Old history holds objects that git would not make today: dates that overflow, a missing blank before an address,
//! trees in another order. They are what they were when they were made, nothing can mend them without another id, and a
//! copy made anew has the same; git says so with exit code 1 as it does of a damaged object. What is damage is told by
//! the lines: an object that is missing, that cannot be read or is not what its name says, a reference to nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitStatus;

/// Kinds of git's remarks about what a sound object holds (git-fsck(1), "fsck message-ids", those known in 2.39). They are
/// not asked for, since a history may have as many of them as commits.
const OF_OLD: [&str; 37] = [
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badFilemode",
    "badName",
    "badTagName",
    "badTimezone",
    "duplicateEntries",
    "emptyName",
    "fullPathname",
    "gitmodulesBlob",
    "gitmodulesLarge",
    "gitmodulesMissing",
    "gitmodulesName",
    "gitmodulesParse",
    "gitmodulesPath",
    "gitmodulesSymlink",
    "gitmodulesUpdate",
    "gitmodulesUrl",
    "hasDot",
    "hasDotdot",
    "hasDotgit",
    "missingAuthor",
    "missingCommitter",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTag",
    "missingTagEntry",
    "missingTaggerEntry",
    "multipleAuthors",
    "nulInCommit",
    "nullSha1",
    "treeNotSorted",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// The exit code when objects alone were found fault with; missing ones, packs and references add to it.
const OBJECTS: i32 = 1;

/// git's arguments for checking every object.
pub fn arguments() -> Vec<String> {
    let ignored = OF_OLD.iter().flat_map(|kind| ["-c".to_owned(), format!("fsck.{kind}=ignore")]);
    let fsck = ["fsck", "--full", "--no-dangling", "--no-progress", "--no-reflogs"];
    ignored.chain(fsck.map(str::to_owned)).collect()
}

/// The damage that a git-fsck(1) with these arguments tells of, given all that it said; `None` if all is sound.
pub fn damage(status: ExitStatus, said: &str) -> Option<String> {
    let lines: Vec<&str> =
        said.lines().map(str::trim_end).filter(|line| !line.is_empty() && !is_remark(line)).collect();
    match lines[..] {
        _ if status.success() => None,
        [] if status.code() == Some(OBJECTS) && !said.trim().is_empty() => None,
        [] => Some(format!("git fsck ended with {status}")),
        _ => Some(lines.join("\n")),
    }
}

/// The names of a repository's packs. Blocks.
pub fn packs(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    let names = std::fs::read_dir(dir.join("objects/pack"))?.map(|entry| entry.map(|e| e.file_name()));
    names.filter(|name| name.as_ref().map_or(true, |n| Path::new(n).extension().is_some_and(|e| e == "pack"))).collect()
}

/// `error in commit 5e1c30…: missingSpaceBeforeEmail: invalid author/committer line`, `notice: HEAD points to …`
fn is_remark(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("error in ").or_else(|| line.strip_prefix("warning in ")) else {
        return line.starts_with("notice: ");
    };
    let mut parts = rest.splitn(3, ": ");
    let (object, kind, words) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    object.split(' ').count() == 2 && words.is_some() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    fn git(dir: &Path, arguments: &[&str], input: &str) -> String {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(dir).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = git.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{arguments:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn checked(dir: &Path) -> (Option<i32>, String, Option<String>) {
        let out = Command::new("git").arg("--git-dir").arg(dir).args(arguments()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap() + &String::from_utf8(out.stdout).unwrap();
        (out.status.code(), said.clone(), damage(out.status, &said))
    }

    #[test]
    fn old_history_is_sound_and_what_is_lost_is_damage() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a.git");
        git(&dir, &["init", "-q", "--bare"], "");
        let object =
            |kind: &str, text: &str| git(&dir, &["hash-object", "-t", kind, "-w", "--stdin", "--literally"], text);
        let blob = object("blob", "text\n");
        let tree = git(&dir, &["mktree"], &format!("100644 blob {blob}\ta\n"));
        // No blank before the address, as old importers wrote it, and one line that is not among the known kinds.
        let who = "A <a@b> 1000000000 +0000";
        let old = object("commit", &format!("tree {tree}\nauthor A<a@b> 1 +0000\ncommitter {who}\n\nx\n"));
        git(&dir, &["update-ref", "refs/heads/main", &old], "");
        assert_eq!(checked(&dir), (Some(0), checked(&dir).1, None));
        let plain = Command::new("git").arg("--git-dir").arg(&dir).args(["fsck", "--full"]).output().unwrap();
        assert_eq!(plain.status.code(), Some(1), "git itself finds fault with it");
        assert_eq!(damage(plain.status, &String::from_utf8_lossy(&plain.stderr)), None, "nor by its lines alone");

        let file = |oid: &str| dir.join("objects").join(&oid[..2]).join(&oid[2..]);
        let aside = tmp.path().join("aside");
        fs::rename(file(&blob), &aside).unwrap();
        let (_, _, missing) = checked(&dir);
        assert!(missing.is_some_and(|said| said.contains(&format!("missing blob {blob}"))));
        // Another object under its name, and one that cannot be read.
        fs::copy(file(&tree), file(&blob)).unwrap();
        assert!(checked(&dir).2.is_some_and(|said| said.contains(&blob)));
        fs::remove_file(file(&blob)).unwrap();
        fs::write(file(&blob), "rubbish").unwrap();
        assert!(checked(&dir).2.is_some_and(|said| said.contains(&blob)));
        fs::remove_file(file(&blob)).unwrap();
        fs::rename(&aside, file(&blob)).unwrap();
        assert_eq!(checked(&dir).2, None);
        // One that nothing leads to is damage as well: exit code 1, and no remark.
        let lone = object("blob", "lone\n");
        fs::remove_file(file(&lone)).unwrap();
        fs::write(file(&lone), "rubbish").unwrap();
        let (code, said, found) = checked(&dir);
        assert!(found.is_some_and(|said| said.contains(&lone)), "{code:?} {said}");
        fs::remove_file(file(&lone)).unwrap();
        fs::write(dir.join("refs/heads/bad"), format!("{}\n", "1".repeat(40))).unwrap();
        assert!(checked(&dir).2.is_some_and(|said| said.contains("refs/heads/bad")));
    }

    #[test]
    fn lines_of_both_kinds() {
        let oid = "5e1c309dae7f45e0f39b1bf3ac3cd9db12e7d689";
        for line in [format!("error in commit {oid}: badDate: it is"), format!("warning in tree {oid}: someKind: x: y")]
        {
            assert!(is_remark(&line), "{line}");
        }
        for line in [
            format!("error in tree {oid}: broken links"),
            format!("error: {oid}: object corrupt or missing"),
            format!("missing blob {oid}"),
            "error: refs/heads/x: badRefContent: y".to_owned(),
        ] {
            assert!(!is_remark(&line), "{line}");
        }
    }
}
