//! What a node finds wrong on its own machine.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Trouble;
use crate::admin::{Address, Live, load_peers};
use crate::control::Control;
use crate::repo;

/// Below this there is no room for a large push …
const DISK_LOW: u64 = 1 << 30;
/// … and below this for a small one.
const DISK_FULL: u64 = 100 << 20;
/// Looking for locks goes through every repository's references; with very many it stops here.
const LOCKS_TIME: Duration = Duration::from_secs(5);
const LOCKS_SHOWN: usize = 10;
const OWN_ADDRESS: Duration = Duration::from_secs(3);

/// Everything that can be seen without another node. Blocks.
pub(super) fn troubles(control: &Control, live: &Live) -> Vec<Trouble> {
    let data = control.peering.data();
    let mut found = Vec::new();
    permissions(data.path(), &mut found);
    disk(data.path(), &mut found);
    locks(control, &mut found);
    match load_peers(data, &control.node.name, &live.keyring) {
        Ok(known) => found.extend(known.problems.into_iter().map(|what| Trouble {
            what,
            cure: "mend or remove the file; until then the node it names is not known".to_owned(),
            grave: true,
        })),
        Err(error) => found.push(Trouble {
            what: format!("peers/ cannot be read: {error}"),
            cure: "look at its owner and permissions".to_owned(),
            grave: true,
        }),
    }
    idle_keys(live, &mut found);
    found.extend(control.damaged(&|_| true).into_iter().map(|one| Trouble {
        what: format!("the repository '{}' is damaged: {}", one.repo, one.said),
        cure: one.cure,
        grave: true,
    }));
    if let Some(what) = control.audit.trouble() {
        let cure = "make room on its disk; records wait in memory until then".to_owned();
        found.push(Trouble { what, cure, grave: true });
    }
    if data.emergency_conf().exists() {
        found.push(Trouble {
            what: "the emergency override is on".to_owned(),
            cure: format!("when it has served, remove {}", data.emergency_conf().display()),
            grave: false,
        });
    }
    found
}

fn permissions(data: &Path, found: &mut Vec<Trouble>) {
    let me = rustix::process::geteuid().as_raw();
    for name in ["", "identity", "invitations", "peers"] {
        let path = data.join(name);
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.mode() & 0o077 != 0 {
            let what = format!(
                "{} is open to other users of the machine (mode {:o})",
                path.display(),
                metadata.mode() & 0o777
            );
            found.push(Trouble { what, cure: format!("chmod go= {}", path.display()), grave: true });
        }
        if metadata.uid() != me {
            let what = format!("{} belongs to user id {}, and the daemon runs as {me}", path.display(), metadata.uid());
            found.push(Trouble { what, cure: format!("chown {me} {}", path.display()), grave: true });
        }
    }
}

fn disk(data: &Path, found: &mut Vec<Trouble>) {
    let stat = match rustix::fs::statvfs(data) {
        Ok(stat) => stat,
        Err(error) => {
            let what = format!("the room on the disk of {} cannot be told: {error}", data.display());
            return found.push(Trouble { what, cure: "look at the file system".to_owned(), grave: true });
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < DISK_LOW {
        let what = format!("the disk of {} has {} MB left", data.display(), free >> 20);
        let cure = "make room, or move the data directory; git needs as much as what is pushed".to_owned();
        found.push(Trouble { what, cure, grave: free < DISK_FULL });
    }
    // File systems without a fixed table of files say 0 of 0.
    if stat.f_files > 0 && stat.f_favail < 10_000 {
        let what = format!("the file system of {} can hold only {} files more", data.display(), stat.f_favail);
        found.push(Trouble { what, cure: "make room for files (inodes)".to_owned(), grave: stat.f_favail < 1000 });
    }
}

fn locks(control: &Control, found: &mut Vec<Trouble>) {
    let (began, now) = (Instant::now(), SystemTime::now());
    let mut stale = Vec::new();
    for name in control.store.list().unwrap_or_default() {
        if began.elapsed() > LOCKS_TIME || stale.len() >= LOCKS_SHOWN {
            break;
        }
        // A repository that went meanwhile has none.
        stale.extend(repo::find_stale_locks(&control.store.dir(&name), now).unwrap_or_default());
    }
    for lock in stale.into_iter().take(LOCKS_SHOWN) {
        let what = format!("a killed git left the lock {}", lock.display());
        let cure = "the next push to that reference removes it; or remove it while no push is running".to_owned();
        found.push(Trouble { what, cure, grave: true });
    }
}

/// Keys whose user is in no rule. With a rule for @all everybody is in one.
fn idle_keys(live: &Live, found: &mut Vec<Trouble>) {
    let named: BTreeSet<&str> = live.policy.users();
    if named.contains("@all") {
        return;
    }
    let people = live.policy.people();
    let idle: Vec<&str> =
        live.keyring.users().into_iter().map(|user| user.as_str()).filter(|user| !people.contains(user)).collect();
    if !idle.is_empty() {
        let more = if idle.len() > 10 { format!(" and {} more", idle.len() - 10) } else { String::new() };
        let what =
            format!("keys in keydir/ whose users no rule names: {}{more}", idle[..idle.len().min(10)].join(", "));
        let cure = "remove the keys of those who have left; name the others in a rule".to_owned();
        found.push(Trouble { what, cure, grave: false });
    }
}

/// Whether an SSH server answers at the node's own address.
pub(super) async fn answers(address: &Address) -> Option<Trouble> {
    let connecting = async {
        let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        let mut hello = [0; 4];
        stream.read_exact(&mut hello).await?;
        if hello == *b"SSH-" { Ok(()) } else { Err(std::io::Error::other("no SSH server answers there")) }
    };
    let why = match timeout(OWN_ADDRESS, connecting).await {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", OWN_ADDRESS.as_secs()),
    };
    Some(Trouble {
        what: format!("its own address, {address}, does not answer from here: {why}"),
        cure: "set [node] address in gitmesh.toml to what others use; behind a router this may be as it should"
            .to_owned(),
        grave: false,
    })
}
