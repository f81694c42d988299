//! The composition root: builds every room from the bottom floor up, binds ports last, and stops from the top down.

mod causes;
mod install;
mod reload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use russh::keys::PublicKeyBase64;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{ADMIN_REPO, Activator, Admin, DataDir, KeyDesk, Programs, Realm, Start};
use crate::audit::{self, Audit};
use crate::cluster::{Cluster, Files, Masters};
use crate::config::Config;
use crate::control::peer::Peering;
use crate::control::{Control, Node};
use crate::durable;
use crate::git::packs::Packs;
use crate::git::process::{Git, settings_text};
use crate::mirror::{About, Mirror};
use crate::model::{Epoch, RepoName};
use crate::peer::Links;
use crate::policy::parse_public_key;
use crate::repo::{self, Space, Store, Upkeep};
use crate::transfer::{Pushes, Transfer, Turns};
use crate::{observe, socket, ssh};
use causes::{Cause, Causes};
pub(crate) use install::lock;
use install::{install_hooks, write_if_changed};
use reload::Running;

/// Running sessions may take this long to end after a stop is asked for; systemd waits a little longer.
const DRAIN: Duration = Duration::from_secs(60);

/// When what a configuration asks for is tried again; each time in vain the pause is twice as long.
const AGAIN_MIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// How often it is looked what has been in the trash for long enough.
const EMPTYING: Duration = Duration::from_secs(3600);

/// Runs the node until it is told to stop. `file` is where `config` was read from, `data` the data directory.
pub async fn run(config: Config, file: PathBuf, data: PathBuf, level: observe::Level) -> anyhow::Result<()> {
    let data = data
        .canonicalize()
        .with_context(|| format!("cannot open the data directory {}; make it with 'gitmesh init'", data.display()))?;
    install::is_writable([&data, &data.join("repositories")])?;
    let _alone = install::lock(&data)?;
    DataDir::new(data.clone())
        .settle()
        .with_context(|| format!("cannot make what is missing in {}", data.display()))?;
    let mut causes = Causes::new(&file, &data)?;
    let identity = russh::keys::load_secret_key(data.join("identity"), None)
        .with_context(|| format!("cannot read the node's key {}/identity; 'gitmesh init' makes one", data.display()))?;
    let own = parse_public_key(&identity.public_key().to_openssh()?).map_err(|e| anyhow!("the node's own key: {e}"))?;

    let settings = data.join("gitconfig");
    let git = Git::new(config.git.program.clone(), settings.clone());
    write_if_changed(&settings, &settings_text(&data.join("hooks"), config.git.fsck))?;
    install_hooks(&data.join("hooks"), &config.admin_socket.path)?;
    let git_version = git.version().await?;
    let store = Store::new(data.join("repositories"), settings);
    let state = DataDir::new(data.clone()).state();
    store.load_gone().context("cannot take over what copies are to be told")?;
    store.sweep_unfinished().context("cannot clean up the repositories' directory")?;
    let orders = DataDir::new(data.clone()).orders();
    for dir in [store.root(), &state, &orders, &orders.join("gone")] {
        durable::sweep_unwritten(dir).with_context(|| format!("cannot clean up {}", dir.display()))?;
    }
    // 'gitmesh init' made this one before there was a daemon.
    store.adopt(&RepoName::new(ADMIN_REPO)?).context("cannot write the admin repository's config")?;

    let (audit, writer) = Audit::open(&config.audit, &data)
        .with_context(|| format!("cannot use {}", data.join(&config.audit.path).display()))?;
    let admin_dir = store.dir(&RepoName::new(ADMIN_REPO)?);
    let programs = Programs::new(DataDir::new(data.clone()), admin_dir.clone(), config.hooks.from_admin_repo);
    let files = Files { orders: &orders, repositories: store.root(), state: &state };
    let masters = Masters::open(&config.node.name, files, repo::write_whole)
        .context("cannot take over which nodes were promoted")?;
    let start = Start {
        data: DataDir::new(data.clone()),
        programs: programs.clone(),
        node: config.node.name.clone(),
        identity: identity.public_key().public_key_bytes(),
        address: config.reached_at(),
        settings: config.settings(),
        guard_repositories: config.mirror.guard_repositories,
        store: Arc::new(store.clone()),
        masters: masters.clone(),
    };
    let (activator, realm, _) = Activator::start(start)?;
    let admin = Admin::new(activator, admin_dir);
    let owners = store.clone();
    // Of one that is gone too, for its creator decides where its copies are.
    let creators = Arc::new(move |repo: &RepoName| {
        owners.creator(repo).or_else(|| owners.gone().of(repo).and_then(|stone| stone.creator))
    });
    let promising = store.clone();
    let epochs = Arc::new(move |repo: &RepoName| {
        repo::promised_epoch(&promising.dir(repo)).unwrap_or_else(|error| {
            tracing::error!(%error, %repo, "its epoch cannot be read, so replicas that have promised one refuse it");
            Epoch::FIRST
        })
    });
    let cluster = Cluster::new(config.node.name.clone(), realm.policies(), masters, creators, epochs);
    let links = Links::new(identity.clone(), realm.peers());
    let mirror = Mirror::new(config.mirror, cluster.clone(), store.clone(), git.clone(), links.clone(), &state)
        .context("cannot take over which copies are paused")?;
    mirror.set_notify(config.notify.clone());
    let upkeep = Upkeep::new(store.clone(), git.clone(), config.maintenance);
    mirror.introduce({
        let (realm, store, upkeep) = (realm.clone(), store.clone(), upkeep.clone());
        move || about(&realm, &store, &upkeep)
    });
    mirror.watch_damage({
        let upkeep = upkeep.clone();
        move || upkeep.news_of_damage()
    });
    mirror.watch_left_over({
        let (realm, share) = (realm.clone(), config.mirror.guard_repositories);
        move || realm.left_over(share)
    });
    let socket_path = config.admin_socket.path.clone();
    let (auto_create, watched) = watch::channel(config.access.create);
    let (hook_limits, limited) = watch::channel(config.hooks.clone());
    let transfer = Transfer {
        realm: realm.clone(),
        admin: admin.clone(),
        programs,
        cluster: cluster.clone(),
        links: links.clone(),
        upkeep: upkeep.clone(),
        store: store.clone(),
        git,
        fsck: config.git.fsck,
        packs: Packs::new(data.join("cache/packs"), config.git.pack_cache)
            .with_context(|| format!("cannot use {}", data.join("cache/packs").display()))?,
        mirror: mirror.clone(),
        audit: audit.clone(),
        pushes: Pushes::default(),
        auto_create: watched,
        processes: Arc::new(Semaphore::new(config.git.max_processes)),
        turns: Turns::new(config.git.packs_at_once()),
        socket: socket_path.display().to_string().into(),
        hooks: data.join("hooks").display().to_string().into(),
        hook_limits: limited,
    };
    let (trash_keep, kept) = watch::channel(config.maintenance.trash_keep);
    let (doors, house) = (CancellationToken::new(), CancellationToken::new());
    let control = Control {
        realm: realm.clone(),
        admin: admin.clone(),
        key_desk: KeyDesk::new(&DataDir::new(data.clone())),
        cluster,
        links,
        store: store.clone(),
        mirror: mirror.clone(),
        peering: Peering::new(DataDir::new(data.clone()), admin.clone()),
        node: Arc::new(Node {
            name: config.node.name.clone(),
            user: config.ssh.user.clone(),
            git_version,
            key: own.fingerprint,
        }),
        trash_keep: kept.clone(),
        upkeep: upkeep.clone(),
        audit: audit.clone(),
        stopping: doors.clone(),
    };

    let reload = Arc::new(Notify::new());
    let local = socket::Door::bind(&socket_path, transfer.clone(), control.clone(), reload.clone())
        .with_context(|| format!("cannot listen at {}", socket_path.display()))?;
    let mut listeners = Vec::new();
    for listen in &config.ssh.listen {
        listeners.push(ssh::bind(*listen).await?);
    }
    let addresses: Vec<String> = listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string()).collect();
    let (door, handle) = ssh::Door::new(config.ssh.clone(), listeners, identity, transfer, control);

    let mut top = JoinSet::new();
    let mut rest = JoinSet::new();
    rest.spawn(local.run(house.clone()));
    rest.spawn({
        let (mirror, stop) = (mirror.clone(), house.clone());
        async move {
            mirror.run(stop).await;
            Ok(())
        }
    });
    rest.spawn(upkeep.clone().run(house.clone()));
    let peers = reload::State::of(&realm).told_since(&reload::State::default());
    rest.spawn(keep_audit(audit.clone(), writer, peers, house.clone()));
    rest.spawn(empty_trash(store.clone(), kept, house.clone()));
    rest.spawn(complete(admin.clone(), mirror.clone(), house.clone()));
    rest.spawn(look_after(admin.clone(), store, mirror.clone(), house.clone()));
    top.spawn(door.run(doors.clone()));
    notify_systemd(&[sd_notify::NotifyState::Ready]);
    tracing::info!(node = %config.node.name, listen = addresses.join(" "), data = %data.display(), "ready");

    let making = admin.making().clone();
    let mut running = Running {
        config,
        file,
        data,
        admin,
        realm,
        audit,
        door: handle,
        mirror,
        auto_create,
        hook_limits,
        trash_keep,
        upkeep,
        level,
    };
    let ended = watch(&mut running, &mut causes, &reload, &mut top, &mut rest).await;
    notify_systemd(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping: no new sessions; running ones are given {} s", DRAIN.as_secs());
    doors.cancel();
    if tokio::time::timeout(DRAIN, all(&mut top)).await.is_err() {
        tracing::warn!("sessions were still running at the deadline and are cut");
    }
    house.cancel();
    making.stop();
    if tokio::time::timeout(Duration::from_secs(10), all(&mut rest)).await.is_err() {
        tracing::warn!("background work did not end in time");
    }
    tracing::info!("stopped");
    ended
}

/// Waits for a signal to stop, and reloads on the way. A room that ends by itself ends the daemon.
async fn watch(
    running: &mut Running,
    causes: &mut Causes,
    asked: &Notify,
    top: &mut JoinSet<std::io::Result<()>>,
    rest: &mut JoinSet<std::io::Result<()>>,
) -> anyhow::Result<()> {
    loop {
        let why = tokio::select! {
            cause = causes.next(asked) => match cause {
                Cause::Stop => return Ok(()),
                Cause::Reload(why) => why,
            },
            Some(ended) = top.join_next() => return Err(anyhow!("the SSH door ended: {ended:?}")),
            Some(ended) = rest.join_next() => return Err(anyhow!("a room ended: {ended:?}")),
        };
        notify_systemd(&[sd_notify::NotifyState::Reloading]);
        running.reload(why).await;
        notify_systemd(&[sd_notify::NotifyState::Ready]);
    }
}

/// What the heartbeats say of this node.
fn about(realm: &Realm, store: &Store, upkeep: &Upkeep) -> About {
    let space = store.space().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot ask how full the disk is");
        Space::default()
    });
    let (generation, software) = (realm.generation(), env!("CARGO_PKG_VERSION").to_owned());
    let damaged = upkeep.damaged().len() as u64;
    About { generation, software, disk_free: space.free, disk_total: space.total, damaged }
}

async fn all(set: &mut JoinSet<std::io::Result<()>>) {
    while let Some(ended) = set.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a room ended badly"),
            Err(error) => tracing::error!(%error, "a room panicked"),
        }
    }
}

/// What needs a look at every repository, in the background, since users need not wait for it: what was removed by hand
/// is made again; locks that a killed git of an earlier run left behind go, now, and once more when those that were too
/// young the first time have aged.
async fn look_after(admin: Admin, store: Store, mirror: Mirror, stop: CancellationToken) -> std::io::Result<()> {
    let looked = tokio::task::spawn_blocking(move || admin.look_after()).await.map_err(std::io::Error::other)?;
    mirror.mark_all(&looked.configured);
    for wait in [Duration::ZERO, Duration::from_secs(15)] {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        let (store, stop) = (store.clone(), stop.clone());
        let swept = tokio::task::spawn_blocking(move || {
            for name in store.list()? {
                // The process cannot end before this thread does.
                if stop.is_cancelled() {
                    break;
                }
                let Some(dir) = store.open_as_daemon(&name) else { continue };
                let removed = repo::remove_stale_locks(&dir, std::time::SystemTime::now())?;
                // Of this run there are none to sweep, so once is enough.
                let left = if wait.is_zero() {
                    durable::sweep_unwritten(&dir)?;
                    repo::sweep_quarantines(&dir, std::time::SystemTime::now())?
                } else {
                    0
                };
                if left > 0 {
                    tracing::info!(repo = %name, left, "removed what killed pushes left behind");
                }
                if !removed.is_empty() {
                    tracing::warn!(repo = %name, locks = removed.len(), first = ?removed[0], "removed locks that a killed git left behind");
                }
            }
            Ok::<(), std::io::Error>(())
        });
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot look for stale locks"),
            Err(error) => return Err(std::io::Error::other(error)),
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// Tries again what a configuration asks for and could not be done at once: the disk may have space again.
async fn complete(admin: Admin, mirror: Mirror, stop: CancellationToken) -> std::io::Result<()> {
    let mut pause = AGAIN_MIN;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let admin = admin.clone();
        let done = tokio::task::spawn_blocking(move || admin.complete()).await.map_err(std::io::Error::other)?;
        // A configuration that can never be carried out must not keep the disk busy.
        pause = if done.is_some() { (pause * 2).min(AGAIN_MAX) } else { AGAIN_MIN };
        if let Some(applied) = done {
            mirror.mark_all(&applied.created);
            mirror.mark_all(&applied.configured);
        }
    }
}

/// Writes the audit until the last door has closed.
async fn keep_audit(
    audit: Audit,
    writer: audit::Writer,
    known: String,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let note = |what: &str| {
        let record = audit::Record::new(audit::Kind::Audit);
        audit.note(record.ended(audit::Outcome::Ok, &format!("gitmesh {} {what}", env!("CARGO_PKG_VERSION"))));
    };
    note(&format!("has started{known}"));
    let writing = tokio::task::spawn_blocking(move || writer.run());
    stop.cancelled().await;
    note("is stopping");
    audit.close();
    writing.await.map_err(std::io::Error::other)
}

/// Deletes what has been in the trash for long enough: now, every so often, and when the time is set anew.
async fn empty_trash(
    store: Store,
    mut keep: watch::Receiver<Duration>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    loop {
        let (store, kept) = (store.clone(), *keep.borrow_and_update());
        match tokio::task::spawn_blocking(move || store.empty_trash(kept)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot empty the trash"),
            Err(error) => return Err(std::io::Error::other(error)),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(kept.clamp(Duration::from_secs(1), EMPTYING)) => {}
            // Its sender lives as long as the daemon.
            _ = keep.changed() => {}
        }
    }
}

fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
