//! The import itself. Each step does nothing when its result is there already; the admin repository comes last, since
//! without it nothing starts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use anyhow::Context as _;

use super::report::Report;
use super::{Import, Step, home, journal, moved_rules, state_of, store_of};
use crate::admin::{ADMIN_REPO, DataDir, Surroundings, check, newest_commit, write_whole};
use crate::cli::init;
use crate::config::FILE_NAME;
use crate::durable;
use crate::git::objects::Author;
use crate::git::odb::{Dated, commit_changes};
use crate::git::ref_state;
use crate::model::RepoName;
use crate::policy::parse_public_key;
use crate::repo::{Original, Owner, Store};

/// Folders of gitolite's LOCAL_CODE whose programs run here.
const PROGRAMS: [&str; 2] = ["VREF", "hooks/repo-specific"];

pub(super) fn carry_out(import: &Import, report: &mut Report) -> anyhow::Result<()> {
    let data = &import.data;
    data.create().with_context(|| format!("failed to make {}", data.path().display()))?;
    let _alone = crate::daemon::lock(data.path())?;
    let owner = owner_for_root(data.path())?;
    let config_path = data.path().join(FILE_NAME);
    if let Some(text) = &import.config_text {
        write_whole(&config_path, text.as_bytes(), 0o600)
            .with_context(|| format!("failed to write {}", config_path.display()))?;
    }
    identity(import, report)?;
    peers(import)?;
    if let Some(local) = &import.meaning.local_code {
        for folder in PROGRAMS {
            programs(&local.join(folder), &data.path().join("local").join(folder))?;
        }
    }
    repositories(import, owner)?;
    if let Some((user, group)) = owner {
        give(data.path(), user, group)?;
    }
    programs_missing(import, report)
}

/// As root: whose everything is to be.
fn owner_for_root(data: &Path) -> io::Result<Option<Owner>> {
    let about = fs::metadata(data)?;
    Ok((rustix::process::geteuid().is_root() && about.uid() != 0).then_some((about.uid(), about.gid())))
}

/// Gives what root has made just now to the owner.
fn give(dir: &Path, user: u32, group: u32) -> io::Result<()> {
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        let about = at.symlink_metadata()?;
        if about.uid() == 0 {
            lchown(&at, Some(user), Some(group))?;
        }
        if about.is_dir() {
            todo.extend(fs::read_dir(&at)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(())
}

/// The node keeps the key by which the others know it, if that is one that a node can have.
fn identity(import: &Import, report: &mut Report) -> anyhow::Result<()> {
    let (data, name) = (&import.data, &import.config.node.name);
    if !data.identity().exists()
        && let Some(key) = import.known_key()
    {
        write_whole(&data.identity(), &key, 0o600).context("failed to write the node's identity")?;
    }
    let (public, _) = init::identity(data, name)?;
    report.identity(&public.fingerprint(ssh_key::HashAlg::Sha256).to_string());
    Ok(())
}

/// Writes down how ssh reaches the other nodes, where its configuration says so. What is there already stays.
fn peers(import: &Import) -> anyhow::Result<()> {
    for (node, (_, address)) in import.other_nodes() {
        let Some(address) = address else { continue };
        let file = import.data.peers().join(format!("{node}.pub"));
        if file.exists() {
            continue;
        }
        let key = import.key_line(&node).unwrap_or_default();
        write_whole(&file.with_extension("address"), format!("{address}\n").as_bytes(), 0o600)?;
        write_whole(&file, key.as_bytes(), 0o600)?;
    }
    Ok(())
}

/// Copies programs that are not there yet.
fn programs(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.is_dir() || from.canonicalize().ok() == to.canonicalize().ok() {
        return Ok(());
    }
    let mut todo = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = todo.pop() {
        if from.is_dir() {
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(&from)? {
                let name = entry?.file_name();
                todo.push((from.join(&name), to.join(name)));
            }
        } else if from.is_file() && !to.exists() {
            let mode = fs::metadata(&from)?.permissions().mode() & 0o777;
            write_whole(&to, &fs::read(&from)?, mode)?;
        }
    }
    Ok(())
}

fn repositories(import: &Import, owner: Option<Owner>) -> anyhow::Result<()> {
    let data = &import.data;
    let (there, here) = (store_of(&import.home.repositories, data), store_of(&data.repositories(), data));
    here.sweep_unfinished().context("failed to remove what an earlier run left behind")?;
    let mut journal = fs::File::options().create(true).append(true).open(journal(data))?;
    let admin = RepoName::new(ADMIN_REPO)?;
    for (name, from) in &import.home.repos {
        let failed = || format!("failed to take over {name}");
        match import.steps.get(name) {
            Some(Step::Take | Step::Renew) if import.in_place => here.adopt(name).with_context(failed)?,
            Some(Step::Take | Step::Renew) => {
                let original = Original { root: &import.home.repositories, dir: from };
                let before = state_of(&there, name).with_context(failed)?;
                here.take_in(name, original, owner, &|_| Ok(())).with_context(failed)?;
                // What lands there while it is copied is a change that the next run takes.
                writeln!(journal, "{before} {} {name}", state_of(&here, name).with_context(failed)?)?;
            }
            _ => {}
        }
    }
    if matches!(import.steps.get(&admin), Some(Step::Take | Step::Renew)) {
        let failed = "failed to take over the admin repository";
        let before = state_of(&there, &RepoName::new(home::ADMIN_REPO_THERE)?).context(failed)?;
        admin_repository(import, &here, &admin, owner).context(failed)?;
        writeln!(journal, "{before} {} {admin}", state_of(&here, &admin).context(failed)?)?;
    }
    here.settle_all()?;
    durable::sync_open("import.journal.sync", &journal, data.path())?;
    Ok(())
}

/// With its history; one commit on top gives the rules their name here. It is the same on every node that makes it.
fn admin_repository(import: &Import, here: &Store, admin: &RepoName, owner: Option<Owner>) -> io::Result<()> {
    let original = Original { root: &import.home.repositories, dir: &import.home.admin };
    here.take_in(admin, original, owner, &|dir| {
        let Some((from, to)) = moved_rules(&import.home) else { return Ok(()) };
        let author = Author { name: "gitmesh", email: "gitmesh@localhost" };
        let rules = import.home.files.get(from).map(Vec::as_slice);
        let changes: BTreeMap<&str, Option<&[u8]>> = [(from, None), (to, rules)].into();
        let head = ref_state::read_refs(dir).map_err(io::Error::other)?.head;
        let branch = head.ok_or_else(|| io::Error::other("HEAD of gitolite-admin names no branch"))?;
        let message = format!("Move from gitolite: {from} is {to}\n");
        let commit = newest_commit(dir).map_err(io::Error::other)?;
        commit_changes(dir, branch.as_str(), &changes, author, &message, commit.as_ref(), Dated::AsParent)
            .map(drop)
            .map_err(io::Error::other)
    })
}

/// The configuration once more, now with the machine around it: programs that rules name and that are not here.
fn programs_missing(import: &Import, report: &mut Report) -> anyhow::Result<()> {
    let data = &import.data;
    let dir = store_of(&data.repositories(), data).dir(&RepoName::new(ADMIN_REPO)?);
    let Some(commit) = newest_commit(&dir)? else { return Ok(()) };
    let public = fs::read_to_string(data.public_key(&import.config.node.name))?;
    let programs = crate::admin::Programs::new(
        DataDir::new(data.path().to_owned()),
        dir.clone(),
        import.config.hooks.from_admin_repo,
    );
    let around = Surroundings {
        node: import.config.node.name.clone(),
        settings: import.config.settings(),
        identity: parse_public_key(public.trim()).map(|key| key.blob).unwrap_or_default(),
        peers: Default::default(),
        programs: Some(programs),
    };
    if let Err(rejected) = check(&dir, &commit, &around) {
        report.person(format!("the first push to {ADMIN_REPO} will be refused until this is mended:\n{rejected}"));
    }
    Ok(())
}
