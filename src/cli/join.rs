//! `gitmesh peer join TOKEN`: this node introduces itself to the one that made the invitation, writes down who that is,
//! and proves both directions.
//!
//! Every step finds done what an earlier run did, so a run that was cut off is finished by running it again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tokio::sync::watch;

use super::init::admin_repository;
use super::peer::{admin_dir, given_address, is_this_machine, open, read_key, refusal, tell_daemon};
use super::{Refusal, exit};
use crate::admin::{ADMIN_REPO, Address, DataDir, FIRST_REF, Introduction, Invitation};
use crate::config::Config;
use crate::control::doctor::Moment;
use crate::control::peer::{Heard, JoinRequest, Joined, Kind, Unheard, call_back, greet, now_ms, told};
use crate::model::HostName;
use crate::peer::{LinkError, Links, Peer, Peers, Said, Stranger, ask_stranger};
use crate::policy::parse_public_key;

/// To reach the inviting node and hear its answer; it may have to compile its configuration again.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long the daemon here may take to know the new peer, before a refusal of the way back counts.
const SETTLE: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 64 << 10;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What 'gitmesh peer token' printed on the other node; - reads it from standard input
    #[arg(value_name = "TOKEN")]
    pub token: String,
    #[arg(
        help = "How the other node reaches this one [default: [node] address of gitmesh.toml]",
        long,
        value_name = "git@HOST:PORT"
    )]
    pub address: Option<String>,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let invitation = read_token(&args.token)?;
    let given = given_address(args.address.as_ref())?;
    let (data, config) = open(args.data.as_ref())?;
    let joined = join(&data, &config, &invitation, given)?;
    print!("{}", next_steps(&config.node.name, &joined));
    Ok(ExitCode::SUCCESS)
}

/// The invitation in an argument, or on standard input.
pub(super) fn read_token(given: &str) -> anyhow::Result<Invitation> {
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        std::io::stdin().take(4096).read_to_string(&mut text).context("failed to read the token")?;
    }
    Ok(text.parse().map_err(|error: crate::admin::NoInvitation| {
        Refusal::new(exit::USAGE, format!("{error}\nhelp: 'gitmesh peer token' on the other node prints one"))
    })?)
}

/// Refuses, before anything is asked, what the other side would refuse.
pub(super) fn refuse_same_name(invitation: &Invitation, name: &HostName) -> Result<(), Refusal> {
    if invitation.node != *name {
        return Ok(());
    }
    let text = format!(
        "this node and the inviting one are both called '{name}' [E0605]\nhelp: names must differ; a new node is given one by: gitmesh init --join TOKEN --name NAME"
    );
    Err(Refusal::new(exit::CONFLICT, text))
}

/// Joins and prints each step.
pub(super) fn join(
    data: &DataDir,
    config: &Config,
    invitation: &Invitation,
    given: Option<Address>,
) -> anyhow::Result<Joined> {
    let me = &config.node.name;
    refuse_same_name(invitation, me)?;
    let (_, line) = read_key(&data.public_key(me))?;
    let identity =
        std::fs::read(data.identity()).with_context(|| format!("failed to read {}", data.identity().display()))?;
    let identity = ssh_key::PrivateKey::from_openssh(identity).context("the node's identity is damaged")?;
    let address = given.unwrap_or_else(|| config.reached_at());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let sent = now_ms();
    let request = JoinRequest { name: me.clone(), address: address.clone(), key: line };
    let Invitation { node, address: there, .. } = invitation;
    let whom = Stranger {
        name: node.clone(),
        key: invitation.fingerprint(),
        user: there.user.clone(),
        host: there.host.clone(),
        port: there.port,
    };
    let said = runtime.block_on(ask_stranger(&whom, invitation.key(), &request.exec_line(), ANSWER_MAX, PATIENCE));
    let joined = answer(invitation, said)?;
    let moment = Moment { asked_ms: sent, answered_ms: now_ms(), theirs_ms: joined.now_ms };

    let key = parse_public_key(&joined.key).map_err(|e| anyhow::anyhow!("{node} sent no usable key: {e}"))?;
    anyhow::ensure!(key.fingerprint == invitation.fingerprint(), "{node} sent another key than it showed");
    let peer = Peer { name: node.clone(), key: key.blob.clone(), user: whom.user, host: whom.host, port: whom.port };
    let met = Introduction { name: node.clone(), key, line: joined.key.clone(), address: Some(there.clone()) };
    met.check(data, me, &admin_dir(data)).map_err(refusal)?;
    let made = met.write(data).map_err(refusal)?;
    println!("{me} and {node} know each other");
    println!("  here   {node} at {} ({})", made.address, invitation.fingerprint());
    println!("  there  {me} at {address}");
    let running = tell_daemon(data);

    let peers: Peers = Arc::new([(node.clone(), peer)].into());
    // Held until the end: links read the table at every use.
    let (_table, table) = watch::channel(peers);
    let links = Links::new(identity, table);
    let (forth, back) = runtime.block_on(prove(&links, me, node, running));
    print!("{}", proofs(me, node, &address, &joined, &forth, back.as_ref()));
    if let Some(skew) = moment.wrong_ms() {
        let (ahead, behind) = if skew > 0 { (node, me) } else { (me, node) };
        println!(
            "  the clock of {ahead} is {:.1} s ahead of that of {behind}; let both follow a time server: timedatectl set-ntp true",
            skew.unsigned_abs() as f64 / 1000.0
        );
    }
    match forth {
        Ok(_) => Ok(joined),
        Err(unheard) => Err(Refusal::new(
            exit::FAILED,
            format!(
                "{node} does not answer: {}\nhelp: run the same command again; it goes on where it stopped",
                unheard.why
            ),
        )
        .into()),
    }
}

/// What the inviting node said, or why it said nothing.
fn answer(invitation: &Invitation, said: Result<Said, LinkError>) -> anyhow::Result<Joined> {
    let Invitation { node, address, .. } = invitation;
    let refuse = |code, text: String| Err(Refusal::new(code, text).into());
    match said {
        Ok(Said { exit: Some(0), out, .. }) => {
            let joined: Joined =
                serde_json::from_str(&out).with_context(|| format!("{node} answered something else"))?;
            anyhow::ensure!(joined.version == 1, "{node} answers in version {}; upgrade this node", joined.version);
            Ok(joined)
        }
        Ok(Said { exit, err, .. }) => {
            let mut text = err.trim().trim_start_matches("FATAL: ").to_owned();
            if text.contains("[E0603]") && invitation.expires > SystemTime::now() {
                text.push_str("\nhelp: by the clock of this node it has not expired; one of the clocks is wrong");
            }
            let code = exit.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
            refuse(code.unwrap_or(exit::FAILED), text)
        }
        Err(LinkError::Refused { .. }) => refuse(
            exit::NOT_PERMITTED,
            format!(
                "{node} does not know this invitation [E0602]\nhelp: it was made by another node, or ended more than a week ago; ask for a new one: gitmesh peer token"
            ),
        ),
        Err(LinkError::WrongKey { address, expected, got, .. }) => refuse(
            exit::FAILED,
            format!(
                "{address} showed the key {got}, and the invitation is of {expected} [E0607]\nhelp: somebody else answers there; is the address right? gitmesh peer token --address git@HOST:PORT"
            ),
        ),
        Err(error) => refuse(
            exit::FAILED,
            format!(
                "{error}\nhelp: {node} must be running and reachable at {address}; if it has another address: gitmesh peer token --address git@HOST:PORT"
            ),
        ),
    }
}

/// Asks both ways. The way back only when there is a daemon here that can be called.
async fn prove(
    links: &Links,
    me: &HostName,
    node: &HostName,
    running: bool,
) -> (Result<Heard, Unheard>, Option<Result<Heard, Unheard>>) {
    let forth = greet(links, me, node).await;
    if forth.is_err() || !running {
        return (forth, None);
    }
    let began = Instant::now();
    loop {
        let back = call_back(links, node).await;
        // The daemon here reads the new peer in the background.
        let early = back.as_ref().is_err_and(|unheard| unheard.kind == Kind::Refused) && began.elapsed() < SETTLE;
        if !early {
            return (forth, Some(back));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn proofs(
    me: &HostName,
    node: &HostName,
    address: &Address,
    joined: &Joined,
    forth: &Result<Heard, Unheard>,
    back: Option<&Result<Heard, Unheard>>,
) -> String {
    let mut out = String::from("\n");
    if let Ok(heard) = forth {
        out.push_str(&format!("  {}", told(me, node, heard)));
    }
    // A String takes every write.
    let _ = match back {
        Some(Ok(heard)) => write!(out, "  {}", told(node, me, heard)),
        Some(Err(unheard)) => {
            let seen = if is_this_machine(address) || address.host != joined.from {
                format!(
                    "; {node} saw this node come from {}: try --address {}@{}:{}",
                    joined.from, address.user, joined.from, address.port
                )
            } else {
                format!("; open port {} here for {node}", address.port)
            };
            writeln!(
                out,
                "  {node} -> {me}\tFAILED: {}\n  The way there works and the way back does not: {me} can bring {node} up to date, {node} cannot bring {me}.\n  help: run this again with the address by which {node} reaches {me}{seen}",
                unheard.why
            )
        }
        None if forth.is_ok() => writeln!(
            out,
            "  {node} -> {me}\tnot tried, since no daemon is running here; once it is: gitmesh peer ping {node}"
        ),
        None => Ok(()),
    };
    out
}

/// What to put into the configuration.
pub(super) fn next_steps(me: &HostName, joined: &Joined) -> String {
    let master = joined.admin_master.as_deref().unwrap_or(&joined.node);
    if joined.admin_copy {
        return format!("\nnext: nothing; the configuration on {} names {me} as a copy already\n", joined.node);
    }
    format!(
        "\nnext: name {me} in conf/gitmesh.conf of gitmesh-admin on {master}, for all repositories or for some, and push it:\n    \
         repo @all\n        option mirror.master = {master}\n        option mirror.copies = {me}\n"
    )
}

/// A new node has no configuration of its own: it starts with one that takes `gitmesh-admin` from its master, and with
/// it everything else. The master's first mirror push replaces it, as soon as the master names this node as a copy.
pub(super) fn take_over(data: &DataDir, me: &HostName, joined: &Joined) -> anyhow::Result<()> {
    let dir = admin_dir(data);
    if dir.exists() {
        return Ok(());
    }
    let master = joined.admin_master.as_deref().unwrap_or(&joined.node);
    let master = HostName::new(master).context("the admin repository's master has no good name")?;
    let conf = format!(
        "# Made by 'gitmesh init --join', for the first moments: {master} replaces it with its own configuration, as soon\n\
         # as that names {me} as a copy of {ADMIN_REPO}.\n\
         repo {ADMIN_REPO}\n    R                       =   @all\n    option mirror.master    =   {master}\n    option mirror.copies    =   {me}\n"
    );
    let files = BTreeMap::from([("conf/gitmesh.conf".to_owned(), conf.into_bytes())]);
    let message = format!("Wait for the configuration of {master}\n");
    admin_repository(data, &dir, &joined.branch, FIRST_REF, &files, me, &message)
        .context("failed to make the admin repository")
}
