//! An exec line becomes a git session, a mirror push or a command.

use crate::git::service::{self, BadPath, Exec, ExecError, Service, from_word, repo_of_path};
use crate::model::time::Stamp;
use crate::model::{Epoch, Oid, RefName, RepoName, UserName, Voucher};
use crate::transfer::{Metadata, MirrorPush};

/// The mirror protocol this node speaks; 2 is 1 with the word `keep`, which an older node must not pass over.
const MIRROR_VERSIONS: [&str; 2] = ["1", "2"];

/// What a client asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    Git(Service, RepoName),
    MirrorReceive(RepoName, MirrorPush),
    Command(Vec<String>),
    /// A node vouches for a user whose session or command it carries here.
    Forwarded(Voucher, Forwarded),
    /// Refused in git's protocol, for git prints it as it is.
    RefuseGit(String),
    Refuse(String),
}

/// What a node carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    Push(RepoName),
    Command(Vec<String>),
}

/// Reads the line of an exec request.
pub(super) fn parse(line: &[u8]) -> Order {
    match service::parse_exec(line) {
        Ok(Exec::Git(service, Ok(repo))) => Order::Git(service, repo),
        Ok(Exec::Git(_, Err(bad))) => Order::RefuseGit(no_such_path(&bad)),
        Ok(Exec::Command(words)) if words.first().is_some_and(|w| w == "gitmesh-mirror-receive") => {
            mirror_receive(&words[1..]).unwrap_or_else(Order::RefuseGit)
        }
        Ok(Exec::Command(words)) if words.first().is_some_and(|w| w == "gitmesh-lost-receive") => {
            lost_receive(&words[1..]).unwrap_or_else(Order::RefuseGit)
        }
        Ok(Exec::Command(words)) if words.first().is_some_and(|w| w == "gitmesh-forward") => forwarded(&words[1..]),
        Ok(Exec::Command(words)) => Order::Command(words),
        Err(error @ (ExecError::NotText | ExecError::Control)) if line.starts_with(b"git") => {
            Order::RefuseGit(format!("{error}; rename the repository in the URL"))
        }
        Err(error) => Order::Refuse(format!("FATAL: {error}")),
    }
}

fn no_such_path(bad: &BadPath) -> String {
    format!("{bad}\nhelp: use a path such as 'docs/handbook' or 'docs/handbook.git'; 'info' over ssh lists yours")
}

/// `'REPO' version=1 epoch=1 head=refs/heads/main creator=alice roles=READERS%20bob%0A`; unknown words are of a later version and change nothing.
fn mirror_receive(words: &[String]) -> Result<Order, String> {
    let value = |key: &str| words.iter().skip(1).find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    let repo = repo_of_path(words.first().map_or("", String::as_str)).map_err(|e| no_such_path(&e))?;
    match value("version") {
        Some(version) if MIRROR_VERSIONS.contains(&version) => {}
        other => {
            let (ours, other) = (MIRROR_VERSIONS[MIRROR_VERSIONS.len() - 1], other.unwrap_or("none"));
            return Err(format!(
                "this node speaks mirror protocol version {ours}, the master {other}; upgrade the older one"
            ));
        }
    }
    let epoch = value("epoch").and_then(Epoch::parse).ok_or("the mirror push names no epoch")?;
    let head =
        value("head").map(|h| RefName::parse(h).ok_or("the mirror push's HEAD is no reference name")).transpose()?;
    let detached = value("detached")
        .map(|oid| Oid::parse(oid).ok_or("the mirror push's detached HEAD is no object id"))
        .transpose()?;
    let metadata = value("meta")
        .map(|meta| Metadata::from_word(meta).ok_or("the mirror push's description and settings are not encoded"))
        .transpose()?;
    let creator = value("creator")
        .map(|c| UserName::new(c).map_err(|e| format!("the mirror push's creator: {e}")))
        .transpose()?;
    let roles = value("roles").map(|r| from_word(r).ok_or("the mirror push's roles are not encoded")).transpose()?;
    let keep = match value("keep") {
        None => false,
        Some("lost") => true,
        Some(other) => return Err(format!("the mirror push asks to keep {other:?}, which this node cannot")),
    };
    let fresh = match value("fresh") {
        None => false,
        Some("yes") => true,
        Some(other) => {
            return Err(format!("the mirror push is fresh in a way that this node does not know: {other:?}"));
        }
    };
    // With locks, they come by an order of their own.
    let unlocked = value("locks") == Some("none");
    let no_papers = value("papers") == Some("none");
    let restored = value("restored").and_then(Stamp::parse);
    let etag = value("etag").map(str::to_owned);
    Ok(Order::MirrorReceive(
        repo,
        MirrorPush {
            epoch,
            lost: false,
            head,
            detached,
            creator,
            roles,
            metadata,
            keep,
            fresh,
            unlocked,
            no_papers,
            restored,
            etag,
        },
    ))
}

/// `'REPO' version=1 epoch=2`: a former master brings what only it had.
fn lost_receive(words: &[String]) -> Result<Order, String> {
    let value = |key: &str| words.iter().skip(1).find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    let repo = repo_of_path(words.first().map_or("", String::as_str)).map_err(|e| no_such_path(&e))?;
    if value("version") != Some("1") {
        return Err("this node takes lost references by version 1 only; upgrade the older node".to_owned());
    }
    let epoch = value("epoch").and_then(Epoch::parse).ok_or("the push of lost references names no epoch")?;
    let bare = MirrorPush {
        epoch,
        lost: true,
        head: None,
        detached: None,
        creator: None,
        roles: None,
        metadata: None,
        keep: false,
        fresh: false,
        unlocked: false,
        no_papers: false,
        etag: None,
        restored: None,
    };
    Ok(Order::MirrorReceive(repo, bare))
}

/// `git-receive-pack 'REPO' VOUCHER` or `command VOUCHER -- WORD...`, with each word as `to_word` writes it.
fn forwarded(words: &[String]) -> Order {
    match words {
        [service, path, voucher @ ..] if service == "git-receive-pack" => {
            let push = repo_of_path(path).map_err(|bad| no_such_path(&bad));
            match push.and_then(|repo| Ok((Voucher::parse(voucher)?, repo))) {
                Ok((voucher, repo)) => Order::Forwarded(voucher, Forwarded::Push(repo)),
                Err(why) => Order::RefuseGit(why),
            }
        }
        [kind, rest @ ..] if kind == "command" => {
            let end = rest.iter().position(|word| word == "--").unwrap_or(rest.len());
            let (voucher, command) = rest.split_at(end);
            let command: Option<Vec<String>> = command.iter().skip(1).map(|word| from_word(word)).collect();
            match (Voucher::parse(voucher), command) {
                (Ok(voucher), Some(words)) => Order::Forwarded(voucher, Forwarded::Command(words)),
                (Ok(_), None) => Order::Refuse("FATAL: the words of what was forwarded are not encoded".to_owned()),
                (Err(why), _) => Order::Refuse(format!("FATAL: {why}")),
            }
        }
        _ => Order::Refuse("FATAL: only pushes and commands are forwarded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_pushes() {
        let Order::MirrorReceive(repo, push) =
            parse(b"gitmesh-mirror-receive 'docs/a' version=1 epoch=3 head=refs/heads/main later=x")
        else {
            panic!("a mirror push")
        };
        assert_eq!(repo.as_str(), "docs/a");
        assert_eq!(push.epoch.to_string(), "3");
        assert_eq!(push.head.map(|h| h.to_string()).as_deref(), Some("refs/heads/main"));
        assert_eq!((push.creator, push.roles), (None, None));
        let owned = b"gitmesh-mirror-receive 'a' version=1 epoch=1 creator=alice roles=READERS%20@all%0A";
        let Order::MirrorReceive(_, push) = parse(owned) else { panic!("a mirror push") };
        assert_eq!(push.creator.as_ref().map(UserName::as_str), Some("alice"));
        assert_eq!((push.roles.as_deref(), push.keep), (Some("READERS @all\n"), false));
        let repair = b"gitmesh-mirror-receive 'a' version=2 epoch=1 keep=lost roles=";
        assert!(matches!(parse(repair), Order::MirrorReceive(_, MirrorPush { keep: true, .. })));
        for bad in [
            "version=1 epoch=1 creator=",
            "version=1 epoch=1 roles=%0",
            "version=3 epoch=1",
            "version=2 epoch=1 keep=some",
            "version=1",
            "version=1 epoch=0",
            "version=1 epoch=1 head=main",
        ] {
            let line = format!("gitmesh-mirror-receive 'a' {bad}");
            assert!(matches!(parse(line.as_bytes()), Order::RefuseGit(_)), "{bad}");
        }
    }

    #[test]
    fn what_is_forwarded() {
        let voucher = "version=1 user=bob key=SHA256:zbv/nU7iZdO0fB0DalMI70dP6/yFD8sctXvvW4+OokY from=[::1]:4 epoch=2";
        let push = parse(format!("gitmesh-forward git-receive-pack 'docs/a' {voucher}").as_bytes());
        let Order::Forwarded(told, Forwarded::Push(repo)) = push else { panic!("{push:?}") };
        assert_eq!((told.to_string().as_str(), repo.as_str()), (voucher, "docs/a"));
        let command =
            parse(format!("gitmesh-forward command {voucher} -- 'perms' 'a' '' 'b%20c' '--' '%27'").as_bytes());
        let Order::Forwarded(_, Forwarded::Command(words)) = command else { panic!("{command:?}") };
        assert_eq!(words, ["perms", "a", "", "b c", "--", "'"]);
        for bad in [
            "gitmesh-forward",
            "gitmesh-forward git-upload-pack 'a' V",
            "gitmesh-forward git-receive-pack '../a' V",
            "gitmesh-forward git-receive-pack 'a'",
            "gitmesh-forward command -- create a",
            "gitmesh-forward command V -- create %0",
        ] {
            let order = parse(bad.replace('V', voucher).as_bytes());
            assert!(matches!(order, Order::Refuse(_) | Order::RefuseGit(_)), "{bad}: {order:?}");
        }
    }

    #[test]
    fn a_bad_path_is_refused_in_gits_own_protocol() {
        assert!(
            matches!(parse(b"git-upload-pack '../etc/passwd'"), Order::RefuseGit(text) if text.contains("no repository name"))
        );
        assert!(matches!(parse(b"git-upload-pack '../a\x01'"), Order::RefuseGit(_)));
        assert!(matches!(parse(b"info 'x"), Order::Refuse(_)));
    }
}
