//! The data plane: one git session, from any door.
//!
//! `serve` is the whole story: make it if it is new and may be made, authorize, locate, open, run. Every door shares every line of it, so access is decided
//! in one place. A refusal before git's protocol starts is one `ERR` packet line (gitprotocol-pack(5)), which git
//! prints as it is. Never: a door's library, the grammar of commands, a rule.

mod clone;
mod configuration;
mod etag;
mod fetch;
mod forward;
mod fresh;
mod listing;
mod looked;
mod moving;
mod noted;
mod program;
mod push;
mod receive;
mod relay;
mod replicas;
mod request;
mod sending;
mod turns;
mod whole;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admin::{ADMIN_REPO, Access, Admin, AutoCreate, CreateError, Denial, HooksConfig, Programs, Realm};
use crate::audit::Audit;
use crate::cluster::identity::Verdict;
use crate::cluster::{Cluster, Place};
use crate::durable;
use crate::git::packs::Packs;
use crate::git::process::{Git, Serving};
use crate::git::service::Service;
use crate::git::{objects, odb, pktline};
use crate::mirror::Mirror;
use crate::model::{Actor, Epoch, HostName, RepoName};
use crate::observe::metrics::{self, Metered};
use crate::peer::Links;
use crate::policy::Grant;
use crate::repo::{self, FileLocks, Ownership, Papers, Repo, Store, Upkeep};
pub use push::{Pushes, Verdicts};
use relay::{Abandoned, relay};
pub use replicas::Patience;
pub use request::{Input, Metadata, MirrorPush, Output, Request, Streams, Via};
pub use turns::Turns;

/// How long a session waits for a free git process before it is told to come back.
const QUEUE: Duration = Duration::from_secs(30);

/// Everything a git session needs. Cheap to clone.
#[derive(Clone)]
pub struct Transfer {
    pub realm: Realm,
    pub admin: Admin,
    pub programs: Programs,
    pub cluster: Cluster,
    pub links: Links,
    pub store: Store,
    pub upkeep: Upkeep,
    pub git: Git,
    /// Whether pushed objects are checked (receive.fsckObjects).
    pub fsck: bool,
    /// What several clones have in common.
    pub packs: Packs,
    pub mirror: Mirror,
    pub audit: Audit,
    pub pushes: Pushes,
    /// Whether a clone or a push makes a repository.
    pub auto_create: watch::Receiver<AutoCreate>,
    /// One permit a git process.
    pub processes: Arc<Semaphore>,
    /// Turns at making and sending large packs.
    pub turns: Turns,
    /// Where hooks knock.
    pub socket: Arc<str>,
    /// The directory of our hooks.
    pub hooks: Arc<str>,
    /// How long a site's own programs may run.
    pub hook_limits: watch::Receiver<HooksConfig>,
}

/// A refusal: the text for the client, in whole lines.
struct Refusal(String);

impl<T: Display> From<T> for Refusal {
    fn from(text: T) -> Self {
        Self(text.to_string())
    }
}

impl Transfer {
    /// Serves one session and returns the exit code for the client: git's own, or 1 after a refusal.
    pub async fn serve<R: Input, W: Output, E: Output>(&self, mut request: Request, streams: Streams<R, W, E>) -> u32 {
        let begun = Instant::now();
        request.repo = self.realm.own_name(request.repo);
        let Request { actor, service, repo, from, .. } = &request;
        let name = service.subcommand();
        let Streams { input, output, errors } = streams;
        let mut streams = Streams {
            input: Metered::new(input, metrics::TRANSFERRED.of(&[name, "received"]), None),
            output: Metered::new(
                output,
                metrics::TRANSFERRED.of(&[name, "sent"]),
                Some((begun, metrics::FIRST_BYTE.of(&[name]))),
            ),
            errors,
        };
        let result = self.run(&request, &mut streams).await;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let transport = if matches!(actor, Actor::Node(_)) || request.via.is_some() { "mesh" } else { "ssh" };
        let ended = match result {
            Ok(0) => "served",
            Ok(_) => "failed",
            Err(_) => "refused",
        };
        metrics::REQUEST.of(&[name, transport]).since(begun);
        metrics::REQUESTS.of(&[name, transport, ended]).add(1);
        match result {
            Ok(code) => {
                tracing::info!(user = %actor, %repo, %service, from, code, ms, "served");
                if *service != Service::ReceivePack {
                    self.note_access(&request, begun, code);
                }
                code
            }
            Err(Refusal(mut text)) => {
                if let Some(via) = &request.via {
                    text = format!("{text}\n{}", self.whose_rule(repo, &via.node).trim_end());
                }
                text = Denial::coded(Denial::FAILED, &text);
                let reason = text.lines().next().unwrap_or_default();
                tracing::info!(user = %actor, %repo, %service, from, ms, reason, "refused");
                self.note_refused(&request, begun, reason);
                let packet = pktline::err_line(&text);
                if let Err(error) = streams.output.write_all(&packet).await {
                    tracing::debug!(%error, "the client left before its refusal");
                }
                1
            }
        }
    }

    async fn run<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        if let Some(master) = self.carried_to(request)? {
            let begun = Instant::now();
            let code = self.forward(request, &master, streams).await?;
            self.note_push(request, None, begun, code, &format!("carried to the master {master}"));
            return Ok(code);
        }
        self.admit_carried(request)?;
        if request.service == Service::ReceivePack && request.mirror.is_none() {
            // Who was master before this start may be one no more.
            if !self.cluster.locate(&request.repo).replicas().is_empty() {
                self.mirror.settled().await;
            }
            self.refuse_moving(&request.repo)?;
        }
        if self.make_if_new(request).await? {
            self.note_creation(request);
            // gitolite's words, as far as a user may know them: a mistyped URL is noticed by this line.
            let line = format!("Initialized empty Git repository in {}.git\n", request.repo);
            if let Err(error) = streams.errors.write_all(line.as_bytes()).await {
                tracing::debug!(%error, "the client left before its answer");
            }
        }
        let repo = self.admit(request).await?;
        if request.mirror.is_none()
            && let motd = self.realm.motd(&request.repo)
            && !motd.is_empty()
            && let Err(error) = streams.errors.write_all(motd.as_bytes()).await
        {
            tracing::debug!(%error, "the client left before its answer");
        }
        if request.service != Service::ReceivePack
            && let Some(line) = self.stale_line(&request.repo)
            && let Err(error) = streams.errors.write_all(line.as_bytes()).await
        {
            tracing::debug!(%error, "the client left before its answer");
        }
        if request.service == Service::UploadPack && self.fetches_here(request, &repo) {
            return self.fetch(request, &repo, streams).await;
        }
        let permit = self.permit().await?;
        match request.service {
            Service::ReceivePack => {
                let code = self.receive(request, &repo, streams).await?;
                drop(permit);
                if code == 0 {
                    self.freshen(request, &mut streams.errors).await;
                }
                Ok(code)
            }
            fetch => {
                let env: Vec<(&str, &str)> = request.protocol.iter().map(|p| ("GIT_PROTOCOL", p.as_str())).collect();
                let git = self.git.serve(fetch, repo.dir(), &env, &[]).map_err(|e| self.internal(&e))?;
                match relay(git, streams, Abandoned::Kill).await {
                    Ok(status) => Ok(exit_code(status)),
                    Err(error) => {
                        tracing::debug!(%error, "the client left in the middle of a fetch");
                        Ok(1)
                    }
                }
            }
        }
    }

    /// A place for one more git process.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let begun = Instant::now();
        let permit = tokio::time::timeout(QUEUE, self.processes.clone().acquire_owned()).await;
        metrics::QUEUE.since(begun);
        let permit = permit.map_err(|_| Denial::coded(Denial::BUSY, "this server is busy"))?;
        Ok(permit.map_err(|_| Denial::coded(Denial::BUSY, "this server is shutting down"))?)
    }

    /// A name without a repository is made for a user whom a `C` rule lets, if the settings do so for this service.
    /// What may not be made is left to `admit`, which tells missing and forbidden repositories in the same words.
    async fn make_if_new(&self, request: &Request) -> Result<bool, Refusal> {
        let Request { actor, repo, service, mirror, .. } = request;
        if mirror.is_some() || !matches!(actor, Actor::User { .. }) || self.store.exists(repo) {
            return Ok(false);
        }
        match self.realm.may_create(actor, repo) {
            Err(denial) if denial.code == Denial::NO_CREATE => return Ok(false),
            may => may?,
        }
        let wanted = match *self.auto_create.borrow() {
            AutoCreate::Any => true,
            AutoCreate::Write => *service == Service::ReceivePack,
            AutoCreate::Command => false,
        };
        if !wanted {
            return Err(self.realm.refuse_auto_create(actor, repo).into());
        }
        let (realm, actor, name) = (self.realm.clone(), actor.clone(), repo.clone());
        match self.blocking(move || realm.create(&actor, &name)).await? {
            Ok(made) => {
                self.mirror.mark(repo);
                Ok(made)
            }
            Err(CreateError::Denied(denial)) if denial.code == Denial::NO_CREATE => Ok(false),
            Err(CreateError::Denied(denial)) => Err(denial.into()),
            Err(CreateError::Failed(error)) => Err(self.internal(&error).into()),
        }
    }

    /// Writing and fsync must not hold up the sessions of others.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        tokio::task::spawn_blocking(work).await.map_err(|error| self.internal(&error).into())
    }

    /// A stale copy looks as good as a fresh one, so it says that it is stale. The line is marked as git marks a server's.
    fn stale_line(&self, repo: &RepoName) -> Option<String> {
        let Place::There { master, .. } = self.cluster.locate(repo) else { return None };
        Some(format!("remote: {}\n", self.mirror.stale_notice(repo, &master)?))
    }

    /// May they, is it ours to serve, and is it here?
    async fn admit(&self, request: &Request) -> Result<Repo, Refusal> {
        let Request { actor, repo, service, mirror, .. } = request;
        let grant = match (mirror, actor) {
            (Some(push), Actor::Node(node)) if push.lost => return self.admit_lost(node, repo, push.epoch),
            (Some(push), Actor::Node(node)) => return self.admit_mirror(node, repo, push).await,
            (Some(_), _) => {
                let first = "only the node that is master of a repository mirrors it";
                let help = "push as yourself, with git push";
                return Err(Denial::plain(Denial::NOT_MASTER, first, help).into());
            }
            (None, _) if *service == Service::ReceivePack => self.realm.authorize(actor, repo, Access::Write)?,
            (None, _) => self.realm.authorize(actor, repo, Access::Read)?,
        };
        if let Some(denial) = self.realm.refuse_here(actor, repo, grant.access()) {
            return Err(denial.into());
        }
        self.open(&grant)
    }

    async fn admit_mirror(&self, node: &HostName, repo: &RepoName, push: &MirrorPush) -> Result<Repo, Refusal> {
        let grant = self.realm.authorize_mirror(node, repo, push.creator.as_ref()).inspect_err(|_| {
            // Either node may know of a promotion of which the other does not.
            self.mirror.ask_masters(node);
        })?;
        let known = self.cluster.epoch(repo);
        if push.epoch < known {
            return Err(self.past(node, repo, push.epoch, known));
        }
        if let Some(verdict) = self.cluster.masters().suspects(node) {
            self.mirror.ask_masters(node);
            let what = if verdict == Verdict::Older { "older than" } else { "another than" };
            return Err(format!(
                "the disk of {node} is {what} the one that {here} remembers; it is no master of '{repo}' before a person \
                 says so\nhelp: 'gitmesh mirror promote' on a replica, or 'gitmesh mirror promote --here --all' on {node} [{code}]",
                here = self.cluster.host(),
                code = Denial::DOUBTED
            )
            .into());
        }
        let owned = Ownership { creator: push.creator.clone(), roles: push.roles.clone() };
        let take_over = |realm: Realm, name: RepoName, owned: Ownership| move || realm.take_over(&name, &owned);
        if !self.store.exists(repo) {
            let (realm, store, name, restored) = (self.realm.clone(), self.store.clone(), repo.clone(), push.restored);
            let back = self.blocking(move || {
                let back = store.bring_back(&name, restored)?;
                if back { realm.moved(&name).map(|()| back) } else { Ok(back) }
            });
            if back.await?.map_err(|e| self.internal(&e))? {
                tracing::info!(%repo, master = %node, "brought back from the trash, for its master has it again");
            }
        }
        if !self.store.exists(repo) {
            let made = self.blocking(take_over(self.realm.clone(), repo.clone(), owned.clone())).await?;
            if made.map_err(|e| self.internal(&e))? {
                tracing::info!(%repo, master = %node, "created, for its master mirrors it here");
            }
        }
        let open = self.open(&grant)?;
        match repo::promise_epoch(open.dir(), push.epoch).map_err(|e| self.internal(&e))? {
            Ok(()) => {
                let (store, name, master) = (self.store.clone(), repo.clone(), node.clone());
                let known = self.blocking(move || store.set_copy_of(&name, Some(&master))).await?;
                known.map_err(|e| self.internal(&e))?;
                // Only now: a master of the past gives no roles either.
                let taken = self.blocking(take_over(self.realm.clone(), repo.clone(), owned)).await?;
                taken.map_err(|e| self.internal(&e))?;
                if let Some(said) = push.metadata.clone() {
                    let (realm, name) = (self.realm.clone(), repo.clone());
                    let taken = self.blocking(move || realm.take_metadata(&name, &said)).await?;
                    taken.map_err(|e| self.internal(&e))?;
                }
                if push.unlocked {
                    let dir = open.dir().to_owned();
                    let taken = self.blocking(move || FileLocks::take_over(&dir, None)).await?;
                    taken.map_err(|e| self.internal(&e))?;
                }
                if push.no_papers {
                    let dir = open.dir().to_owned();
                    let taken = self.blocking(move || Papers::take_over(&dir, None)).await?;
                    taken.map_err(|e| self.internal(&e))?;
                }
                Ok(open)
            }
            Err(promised) => Err(self.past(node, repo, push.epoch, promised)),
        }
    }

    /// A former master, and now a replica, brings what only it had.
    fn admit_lost(&self, node: &HostName, repo: &RepoName, epoch: Epoch) -> Result<Repo, Refusal> {
        let grant = self.realm.authorize_lost(node, repo)?;
        let known = self.cluster.epoch(repo);
        if epoch != known {
            self.mirror.ask_masters(node);
            return Err(format!("{node} takes epoch {epoch} of '{repo}' for the newest, and here it is {known}").into());
        }
        self.open(&grant)
    }

    /// A push by a master of the past: both sides are to hear what the other knows.
    fn past(&self, node: &HostName, repo: &RepoName, epoch: Epoch, promised: Epoch) -> Refusal {
        self.mirror.ask_masters(node);
        Refusal(format!(
            "epoch {epoch} of '{repo}' is over: {promised} has been promised here; {node} is no longer its master [{}]",
            Denial::PAST
        ))
    }

    /// While a repository's master changes.
    fn refuse_moving(&self, repo: &RepoName) -> Result<(), Refusal> {
        if !self.store.gates().is_closed(repo) {
            return Ok(());
        }
        Err(Denial::moving(repo).into())
    }

    fn open(&self, grant: &Grant) -> Result<Repo, Refusal> {
        let name = grant.repo();
        if let Some(what) = self.store.unread_format(name) {
            tracing::warn!(repo = %name, "{what}, which gitmesh does not read");
            return Err(format!(
                "'{name}' {what}, which this server does not read\nhelp: an administrator can make it anew and push into it from a clone in the usual format"
            )
            .into());
        }
        self.store.open(grant).ok_or_else(|| {
            Refusal(format!("'{name}' is configured but not on this server's disk\nhelp: an administrator can make it by pushing gitmesh-admin again"))
        })
    }

    /// Tells the client that it is not to blame, and the operator everything under the same reference.
    fn internal(&self, error: &dyn Display) -> String {
        let reference = format!("{:08x}", rand::random::<u32>());
        tracing::error!(%error, reference, "a session failed");
        if let Some(trouble) = durable::trouble(&error.to_string()) {
            return trouble.to_owned();
        }
        format!(
            "the server has a problem of its own (reference {reference}); tell an administrator, then try again [{}]",
            Denial::INTERNAL
        )
    }

    async fn receive<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        repo: &Repo,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        let began = Instant::now();
        if let Some(push) = request.mirror.as_ref().filter(|push| push.fresh) {
            let code = self.receive_fresh(request, push, repo, streams).await?;
            self.note_push(request, None, began, code, "the whole copy was made anew");
            return Ok(code);
        }
        let fresh = match &request.mirror {
            Some(push) if push.lost => false,
            Some(_) => repo::is_fresh_epoch(repo.dir()).map_err(|e| self.internal(&e))?,
            None => false,
        };
        let entry = self.pushes.enter(request, repo.name.clone(), fresh);
        let code = self.receive_as(&entry, request, repo, streams, fresh).await?;
        self.note_push(request, Some(&entry), began, code, "");
        Ok(code)
    }

    async fn receive_as<R: Input, W: Output, E: Output>(
        &self,
        entry: &push::Entry,
        request: &Request,
        repo: &Repo,
        streams: &mut Streams<R, W, E>,
        fresh: bool,
    ) -> Result<u32, Refusal> {
        let began = Instant::now();
        let code = if self.receives_here(request, repo) {
            self.receive_here(entry, request, repo, streams).await?
        } else {
            let git = self.receive_pack(entry, request, repo)?;
            relay(git, streams, Abandoned::Drain).await.map_or_else(
                |error| {
                    tracing::warn!(%error, repo = %repo.name, "git ended badly in a push");
                    1
                },
                exit_code,
            )
        };
        if code != 0 && self.pushes.is_last(entry) {
            sweep_locks(repo).await;
        }
        if code == 0
            && let Some(push) = &request.mirror
            && let Err(why) = copy_head(repo, push).await
        {
            tracing::warn!(repo = %repo.name, why, "HEAD does not follow the master's");
            let text = format!("HEAD of '{}' cannot follow its master's: {why}\n", repo.name);
            if let Err(error) = streams.errors.write_all(text.as_bytes()).await {
                tracing::debug!(%error, "the master left before its answer");
            }
            return Ok(1);
        }
        if code == 0 && request.mirror.as_ref().is_some_and(|push| push.head.is_some() || push.detached.is_some()) {
            self.follow_head(repo).await;
        }
        if code == 0
            && let (Some(MirrorPush { lost: false, .. }), Actor::Node(master)) = (&request.mirror, &request.actor)
        {
            self.mirror.received(&repo.name, master, began);
            if fresh && entry.landed_whole() {
                repo::settle_epoch(repo.dir()).map_err(|e| self.internal(&e))?;
            }
        }
        Ok(code)
    }
}

impl Transfer {
    /// Starts git-receive-pack(1) for a push that came through a door.
    fn receive_pack(&self, entry: &push::Entry, request: &Request, repo: &Repo) -> Result<Serving, Refusal> {
        let mut env = vec![
            (crate::hook::client::SOCKET_ENV, &*self.socket),
            (crate::hook::client::PUSH_ENV, entry.id().expose()),
        ];
        env.extend(request.protocol.iter().map(|p| ("GIT_PROTOCOL", p.as_str())));
        // Our hooks judge every push, whatever a repository that was copied here says in its own configuration.
        let hooks = format!("core.hooksPath={}", self.hooks);
        let mut settings = vec![hooks.as_str(), "receive.procReceiveRefs=refs"];
        let told = entry.told(&[]).map_or_else(Vec::new, |told| self.environment(&told));
        env.extend(told.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        // A master may delete whatever it has deleted itself, and its replicas take it as it is.
        if request.mirror.is_some() {
            settings.extend(["receive.denyDeleteCurrent=ignore", "receive.fsckObjects=false"]);
        }
        if request.mirror.as_ref().is_some_and(|push| push.lost) {
            settings.push("transfer.hideRefs=!refs/gitmesh/lost");
        }
        Ok(self.git.serve(request.service, repo.dir(), &env, &settings).map_err(|e| self.internal(&e))?)
    }

    /// A mirrored admin repository whose master has made another branch the live one.
    async fn follow_head(&self, repo: &Repo) {
        if repo.name.as_str() != ADMIN_REPO {
            return;
        }
        let (dir, admin, live) = (repo.dir().to_owned(), self.admin.clone(), self.realm.live().commit.clone());
        let mirror = self.mirror.clone();
        let followed = tokio::task::spawn_blocking(move || match objects::head_commit(&dir) {
            Ok(Some(head)) if head != live => {
                let applied = admin.reload().map_err(|error| error.to_string())?;
                mirror.mark_all(&applied.configured);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        });
        if let Err(error) = followed.await.map_err(|error| error.to_string()).and_then(|done| done) {
            tracing::error!(error, "the new configuration is not in force; the old one stays");
        }
    }
}

/// HEAD is no reference of git's push protocol, so it comes beside it, and is set once what it names is there.
async fn copy_head(repo: &Repo, push: &MirrorPush) -> Result<(), String> {
    let (dir, head, detached) = (repo.dir().to_owned(), push.head.clone(), push.detached.clone());
    let set = tokio::task::spawn_blocking(move || match (head, detached) {
        (Some(branch), _) => objects::set_head(&dir, &branch),
        (None, Some(oid)) => odb::detach_head(&dir, &oid),
        (None, None) => Ok(()),
    });
    let set = set.await.map_err(|error| error.to_string())?;
    set.map_err(|error| match &push.detached {
        Some(oid) => {
            format!("it is detached at {oid}, which no reference there leads to ({error}); let it name a branch")
        }
        None => error.to_string(),
    })
}

async fn sweep_locks(repo: &Repo) {
    let dir = repo.dir().to_owned();
    let swept = tokio::task::spawn_blocking(move || repo::remove_stale_locks(&dir, std::time::SystemTime::now())).await;
    match swept {
        Ok(Ok(locks)) if locks.is_empty() => {}
        Ok(Ok(locks)) => {
            tracing::warn!(repo = %repo.name, locks = locks.len(), first = ?locks[0], "removed locks that a killed git left behind")
        }
        Ok(Err(error)) => tracing::warn!(%error, repo = %repo.name, "cannot look for stale locks"),
        Err(error) => tracing::error!(%error, "the search for stale locks panicked"),
    }
}

fn exit_code(status: std::process::ExitStatus) -> u32 {
    // A shell's convention for a process that a signal ended.
    status.code().map_or(137, i32::cast_unsigned)
}
