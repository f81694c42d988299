//! `gitmesh init`: from nothing to a node that can be started.
//!
//! Everything given is checked before the first file is written. `gitmesh.toml` is written first, since it records
//! who the node is; each later step does nothing when its result is there already. So a run that was cut off is
//! finished by running it again, and one more run changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use rand::TryRngCore as _;
use ssh_key::private::{Ed25519Keypair, KeypairData};

use super::{Refusal, exit, join, key_line, shell_word};
use crate::admin::{ADMIN_REPO, Address, DataDir, Invitation, newest_commit, write_whole};
use crate::config::{Config, FILE_NAME, example, machine_name};
use crate::durable;
use crate::git::objects::{self, Author};
use crate::model::{Fingerprint, HostName, Oid, UserName};
use crate::policy::{KeyProblem, parse_public_key};
use crate::ssh::Listen;

/// Key text or a path, for places where an argument is hard to give (containers).
const KEY_ENVIRONMENT: &str = "GITMESH_ADMIN_KEY";
const BRANCH: &str = "main";

/// Set up a node: data directory, identity, first administrator
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    #[arg(
        help = "Data directory [default: /var/lib/gitmesh for root, ~/.local/share/gitmesh for others]",
        long,
        value_name = "DIR"
    )]
    pub data: Option<PathBuf>,
    #[arg(help = "What other nodes call this one [default: the machine's short name]", long, value_name = "NODE")]
    pub name: Option<String>,
    #[arg(help = "Name of the first administrator [default: from the key's comment]", long, value_name = "NAME")]
    pub admin: Option<String>,
    /// The administrator's public key: a file, the key itself, or - for standard input
    #[arg(long, value_name = "FILE|KEY|-")]
    pub admin_key: Option<String>,
    #[arg(
        help = "Address to listen on, may be repeated [default: [::]:22 for root, [::]:2222 for others]",
        long,
        value_name = "IP:PORT"
    )]
    pub listen: Vec<String>,
    /// How others reach this node, git@HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Join the node that made this invitation (- reads it from standard input); its administrators are this one's too
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["admin", "admin_key"])]
    pub join: Option<String>,
}

/// Runs the command and prints its outcome.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = String::new();
    let outcome = init(&args, &mut out);
    print!("{out}");
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) => {
                eprintln!("gitmesh init: {refusal}");
                Ok(ExitCode::from(refusal.code))
            }
            Err(error) => Err(error),
        },
    }
}

/// What the arguments ask for, parsed.
struct Wanted {
    name: Option<HostName>,
    admin: Option<UserName>,
    key: Option<AdminKey>,
    listen: Vec<Listen>,
    address: Option<Address>,
    join: Option<Invitation>,
}

/// The key of the first administrator.
struct AdminKey {
    line: String,
    blob: Vec<u8>,
    fingerprint: Fingerprint,
    /// The user that the key's comment suggests.
    owner: Option<UserName>,
}

fn init(args: &Args, out: &mut String) -> anyhow::Result<()> {
    let data = args.data.clone().map_or_else(DataDir::by_default, DataDir::new);
    let wanted = parse(args)?;
    refuse_foreign_owner(&data)?;
    let config_path = data.path().join(FILE_NAME);
    let admin_dir = data.repositories().join(format!("{ADMIN_REPO}.git"));
    let existing = if config_path.exists() { Some(load(&config_path)?) } else { None };
    if let Some(existing) = &existing {
        refuse_differences(existing, &wanted, &config_path)?;
    }
    let old_admin = admin_commit(&admin_dir)?;
    match (&old_admin, &wanted.key) {
        (Some(commit), Some(key)) => refuse_other_key(&admin_dir, commit, key, &wanted)?,
        (None, None) if wanted.join.is_none() => return Err(missing_key().into()),
        _ => {}
    }

    let mut made = data.create().with_context(|| format!("failed to make {}", data.path().display()))?;
    let config = match existing {
        Some(config) => config,
        None => {
            made = true;
            write_config(&config_path, &wanted)?
        }
    };
    let name = &config.node.name;
    let (public, new_identity) = identity(&data, name)?;
    made |= new_identity;
    let mut administrator = None;
    if let (None, Some(key)) = (old_admin, &wanted.key) {
        let admin = wanted.admin.clone().or_else(|| key.owner.clone());
        let admin = admin.map_or_else(|| UserName::new("admin"), Ok).context("failed to name the administrator")?;
        let conf = format!("repo {ADMIN_REPO}\n    RW+     =   {admin}\n\nrepo testing\n    RW+     =   @all\n");
        let files = BTreeMap::from([
            ("conf/gitmesh.conf".to_owned(), conf.into_bytes()),
            (format!("keydir/{admin}.pub"), format!("{}\n", key.line).into_bytes()),
        ]);
        let message = format!("Start with {admin} as administrator\n");
        admin_repository(&data, &admin_dir, BRANCH, BRANCH, &files, name, &message)
            .context("failed to make the admin repository")?;
        administrator = Some((admin, key.fingerprint.clone()));
        made = true;
    }
    let Some(invitation) = &wanted.join else {
        report(out, &data, &config, &public, made, administrator.as_ref(), args.data.is_some());
        return Ok(());
    };
    said(out, &data, &config, &public, made, None);
    print!("{}", std::mem::take(out));
    let joined = join::join(&data, &config, invitation, None)?;
    join::take_over(&data, name, &joined)?;
    out.push_str(&join::next_steps(name, &joined));
    let _ = writeln!(out, "then:\n  gitmesh serve{}", given_data(&data, args.data.is_some()));
    Ok(())
}

fn parse(args: &Args) -> anyhow::Result<Wanted> {
    let usage = |text: String| Refusal::new(exit::USAGE, text);
    let name = args.name.as_deref().map(HostName::new).transpose();
    let name =
        name.map_err(|e| usage(format!("--name: {e}; letters, digits and '-_.' make a node's name, as in server1")))?;
    let admin = args.admin.as_deref().map(UserName::new).transpose();
    let admin = admin.map_err(|e| usage(format!("--admin: {e}; letters, digits and '-_.@+' make a user's name")))?;
    if admin.as_ref().is_some_and(|admin| admin.as_str().starts_with("server-")) {
        return Err(usage("--admin: names that start with 'server-' belong to nodes; choose another".to_owned()).into());
    }
    let listen = args.listen.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    let listen = listen.map_err(|e| usage(format!("--listen: {e}")))?;
    let address = args.address.as_deref().map(str::parse).transpose().map_err(|e| usage(format!("--address: {e}")))?;
    let from_environment = || std::env::var(KEY_ENVIRONMENT).ok().filter(|text| !text.is_empty());
    let join = args.join.as_deref().map(join::read_token).transpose()?;
    if let (Some(invitation), Some(name)) = (&join, name.clone().or_else(machine_name)) {
        join::refuse_same_name(invitation, &name)?;
    }
    let key = args
        .admin_key
        .clone()
        .or_else(|| from_environment().filter(|_| join.is_none()))
        .map(|given| admin_key(&given))
        .transpose()?;
    Ok(Wanted { name, admin, key, listen, address, join })
}

/// Reads the key from where `given` says and checks every line of it.
fn admin_key(given: &str) -> anyhow::Result<AdminKey> {
    let (text, origin) = if given == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(64 << 10)
            .read_to_string(&mut text)
            .context("failed to read the key from standard input")?;
        (text, "standard input".to_owned())
    } else if given.contains(char::is_whitespace) && !Path::new(given).exists() {
        (given.to_owned(), "the given key".to_owned())
    } else {
        let read = std::fs::read(given).map_err(|e| {
            let cure = "give the public key's file, often ~/.ssh/id_ed25519.pub, or the key itself in quotes";
            Refusal::new(exit::NOT_FOUND, format!("the key file '{given}' cannot be read: {e}\nhelp: {cure}"))
        })?;
        (String::from_utf8_lossy(&read).into_owned(), given.to_owned())
    };
    Ok(parse_admin_key(&text, &origin)?)
}

fn parse_admin_key(text: &str, origin: &str) -> Result<AdminKey, Refusal> {
    let key = parse_public_key(text).map_err(|e| {
        let help = if e == KeyProblem::Empty { format!("\nhelp: {}", key_help()) } else { String::new() };
        Refusal::new(exit::CONFIGURATION, format!("{origin}: {e}{help}"))
    })?;
    let user = key.comment.split('@').next().and_then(|user| UserName::new(user).ok());
    let owner = user.filter(|user| !user.as_str().starts_with("server-"));
    let line = key_line(text).to_owned();
    Ok(AdminKey { line, blob: key.blob, fingerprint: key.fingerprint, owner })
}

fn key_help() -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let found =
        ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"].iter().find(|file| home.join(".ssh").join(file).exists());
    match found {
        Some(file) => format!("--admin-key ~/.ssh/{file}"),
        None => "make a key with: ssh-keygen -t ed25519   and give --admin-key ~/.ssh/id_ed25519.pub".to_owned(),
    }
}

fn missing_key() -> Refusal {
    let text = "a new node needs the public key of its first administrator, and none was given";
    Refusal::new(exit::USAGE, format!("{text}\nhelp: {}", key_help()))
}

/// A directory of another user's would end up half readable: the daemon could not open what we write now.
pub(super) fn refuse_foreign_owner(data: &DataDir) -> anyhow::Result<()> {
    let Ok(metadata) = std::fs::metadata(data.path()) else { return Ok(()) };
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner == me {
        return Ok(());
    }
    let path = data.path().display();
    let text = format!(
        "{path} belongs to user id {owner}, and you are {me}\nhelp: run the same command as its owner: sudo -u '#{owner}' gitmesh init ..."
    );
    Err(Refusal::new(exit::NOT_PERMITTED, text).into())
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path).map_err(|e| Refusal::new(exit::CONFIGURATION, e.to_string()))?)
}

/// Compares what was asked for with the node that is there; settings are changed in the file, not by `init`.
fn refuse_differences(config: &Config, wanted: &Wanted, path: &Path) -> anyhow::Result<()> {
    let mut different = Vec::new();
    if wanted.name.as_ref().is_some_and(|name| *name != config.node.name) {
        different.push(format!("the node is called '{}' (others know it by that name)", config.node.name));
    }
    if !wanted.listen.is_empty() && wanted.listen != config.ssh.listen {
        let listen: Vec<_> = config.ssh.listen.iter().map(|listen| listen.0.to_string()).collect();
        different.push(format!("it listens on {}", listen.join(", ")));
    }
    if wanted.address.is_some() && wanted.address != config.node.address {
        let address = config.node.address.as_ref().map_or("not set".to_owned(), ToString::to_string);
        different.push(format!("its address is {address}"));
    }
    if different.is_empty() {
        return Ok(());
    }
    let text = format!(
        "this node exists already, and differs: {}. Nothing was changed.\n\
         help: change it in {} and reload the daemon, or choose another directory with --data",
        different.join("; "),
        path.display()
    );
    Err(Refusal::new(exit::CONFLICT, text).into())
}

/// The admin repository exists: the given key must be one of its keys, else the user expects what will not happen.
fn refuse_other_key(dir: &Path, commit: &Oid, key: &AdminKey, wanted: &Wanted) -> anyhow::Result<()> {
    let files = objects::files_at(dir, commit, &["keydir/"]).context("failed to read the admin repository")?;
    let known = |blob: &Vec<u8>, admin: Option<&UserName>| {
        files.iter().any(|(path, contents)| {
            let base = path.rsplit('/').next().unwrap_or_default();
            let named = admin.is_none_or(|admin| {
                base == format!("{admin}.pub")
                    || base.strip_prefix(admin.as_str()).is_some_and(|rest| rest.starts_with('@'))
            });
            let text = String::from_utf8_lossy(contents);
            named && text.lines().filter_map(|line| parse_public_key(line).ok()).any(|known| known.blob == *blob)
        })
    };
    if known(&key.blob, wanted.admin.as_ref()) {
        return Ok(());
    }
    let whose = wanted.admin.as_ref().map_or(String::new(), |admin| format!(" of '{admin}'"));
    let text = format!(
        "the admin repository exists already, and this key{whose} ({}) is not in it. Nothing was changed.\n\
         help: add the key by a push to {ADMIN_REPO} (a file in keydir/); if no administrator can push any more,\n\
         \x20     put the key's file into emergency-keydir/ beside an empty emergency.conf in the data directory",
        key.fingerprint
    );
    Err(Refusal::new(exit::CONFLICT, text).into())
}

/// The commit that the admin repository is at; `None` if there is no such repository. One that cannot be read is left
/// alone: it may hold somebody's only configuration.
fn admin_commit(dir: &Path) -> anyhow::Result<Option<Oid>> {
    if !dir.exists() {
        return Ok(None);
    }
    let commit = newest_commit(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    commit.map(Some).ok_or_else(|| {
        let text = format!("{} exists and holds no commit\nhelp: move it away and run this again", dir.display());
        Refusal::new(exit::CONFLICT, text).into()
    })
}

fn write_config(path: &Path, wanted: &Wanted) -> anyhow::Result<Config> {
    let name = match &wanted.name {
        Some(name) => name.clone(),
        None => machine_name().ok_or_else(|| {
            Refusal::new(
                exit::USAGE,
                "the machine's own name is no name for a node\nhelp: give one with --name server1",
            )
        })?,
    };
    let mut listen = wanted.listen.clone();
    if listen.is_empty() {
        listen.push(default_listen());
    }
    let text = example(&name, &listen, wanted.address.as_ref());
    write_whole(path, text.as_bytes(), 0o600).with_context(|| format!("failed to write {}", path.display()))?;
    load(path)
}

/// Port 22 where it may be bound: only root may bind one below 1024.
pub(super) fn default_listen() -> Listen {
    let port = if rustix::process::geteuid().is_root() { 22 } else { 2222 };
    Listen(([0u16; 8], port).into())
}

/// Reads or makes the node's key; returns its public key and whether something was written.
pub(super) fn identity(data: &DataDir, name: &HostName) -> anyhow::Result<(ssh_key::PublicKey, bool)> {
    let path = data.identity();
    let failed = || format!("failed to write the node's identity below {}", data.path().display());
    let (key, mut made) = match std::fs::read(&path) {
        Ok(text) => {
            (ssh_key::PrivateKey::from_openssh(text).with_context(|| format!("{} is damaged", path.display()))?, false)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            rand::rngs::OsRng.try_fill_bytes(&mut seed).context("failed to get random bytes from the system")?;
            let pair = KeypairData::from(Ed25519Keypair::from_seed(&seed));
            let key = ssh_key::PrivateKey::new(pair, name.as_str()).context("failed to make a key")?;
            let text = key.to_openssh(ssh_key::LineEnding::LF).context("failed to encode the key")?;
            write_whole(&path, text.as_bytes(), 0o600).with_context(failed)?;
            (key, true)
        }
        Err(e) => return Err(e).with_context(|| format!("failed to read {}", path.display())),
    };
    let mut public = key.public_key().clone();
    public.set_comment(name.as_str());
    let line = format!("{}\n", public.to_openssh().context("failed to encode the public key")?);
    let public_path = data.public_key(name);
    if std::fs::read_to_string(&public_path).ok().as_ref() != Some(&line) {
        write_whole(&public_path, line.as_bytes(), 0o644).with_context(failed)?;
        made = true;
    }
    Ok((public, made))
}

/// Makes the repository under a temporary name and moves it into place with its first commit inside, on a branch or a
/// whole reference name.
pub(super) fn admin_repository(
    data: &DataDir,
    dir: &Path,
    head: &str,
    branch: &str,
    files: &BTreeMap<String, Vec<u8>>,
    node: &HostName,
    message: &str,
) -> anyhow::Result<()> {
    let temporary = data.state().join("new-admin.git");
    // Left over by a run that was cut off.
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary)?;
    }
    objects::init_bare(&temporary, head)?;
    let email = format!("gitmesh@{node}");
    let author = Author { name: "gitmesh", email: &email };
    objects::commit_files(&temporary, branch, files, author, message, None)?;
    durable::rename("init.admin.rename", &temporary, dir)?;
    durable::sync("init.admin.dir", &data.repositories())?;
    Ok(())
}

/// What the node is, in a few lines.
fn said(
    out: &mut String,
    data: &DataDir,
    config: &Config,
    public: &ssh_key::PublicKey,
    made: bool,
    administrator: Option<&(UserName, Fingerprint)>,
) {
    let path = data.path().display();
    let name = &config.node.name;
    // A String takes every write.
    let _ = if made {
        writeln!(out, "node {name} is set up in {path}")
    } else {
        writeln!(out, "node {name} is set up in {path} already; nothing was changed")
    };
    if let Some((admin, fingerprint)) = administrator {
        let _ = writeln!(out, "  administrator  {admin} ({fingerprint})");
    }
    let fingerprint = public.fingerprint(ssh_key::HashAlg::Sha256);
    let file = data.public_key(name);
    let _ = writeln!(out, "  identity       {fingerprint}; give {} to other nodes", file.display());
}

fn given_data(data: &DataDir, given: bool) -> String {
    if given { format!(" --data {}", shell_word(&data.path().display().to_string())) } else { String::new() }
}

fn report(
    out: &mut String,
    data: &DataDir,
    config: &Config,
    public: &ssh_key::PublicKey,
    made: bool,
    administrator: Option<&(UserName, Fingerprint)>,
    data_given: bool,
) {
    said(out, data, config, public, made, administrator);
    let address = config.reached_at();
    let _ = write!(
        out,
        "\nnext:\n  gitmesh serve{}\n  git clone {}\n  {} info\n",
        given_data(data, data_given),
        shell_word(address.url(ADMIN_REPO).trim_end_matches(".git")),
        address.ssh()
    );
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn some_key(seed: u8, comment: &str) -> String {
        let pair = KeypairData::from(Ed25519Keypair::from_seed(&[seed; 32]));
        let key = ssh_key::PrivateKey::new(pair, comment).unwrap();
        key.public_key().to_openssh().unwrap()
    }

    fn args(dir: &Path, key: &str) -> Args {
        Args {
            data: Some(dir.join("data")),
            name: Some("server1".to_owned()),
            admin_key: Some(key.to_owned()),
            listen: vec!["127.0.0.1:2222".to_owned()],
            ..Args::default()
        }
    }

    fn done(args: &Args) -> String {
        let mut out = String::new();
        init(args, &mut out).unwrap();
        out
    }

    fn refused(args: &Args) -> (u8, String) {
        let refusal = init(args, &mut String::new()).unwrap_err().downcast::<Refusal>().unwrap();
        (refusal.code, refusal.text)
    }

    #[test]
    fn a_node_is_set_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path(), &some_key(1, "alice@laptop"));
        let first = done(&args).replace(&dir.path().display().to_string(), "DIR");
        let first = first.lines().filter(|line| !line.contains("identity")).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(first, @r#"
        node server1 is set up in DIR/data
          administrator  alice (SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8)

        next:
          gitmesh serve --data DIR/data
          git clone ssh://git@127.0.0.1:2222/gitmesh-admin
          ssh -p 2222 git@127.0.0.1 info
        "#);
        let data = DataDir::new(dir.path().join("data"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(data.path()), mode(&data.identity())), (0o700, 0o600));
        let public = std::fs::read_to_string(data.path().join("server1.pub")).unwrap();
        assert!(public.starts_with("ssh-ed25519 ") && public.ends_with(" server1\n"), "{public}");
        let admin = data.repositories().join("gitmesh-admin.git");
        let commit = objects::head_commit(&admin).unwrap().unwrap();
        let files = objects::files_at(&admin, &commit, &["conf/", "keydir/"]).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["conf/gitmesh.conf", "keydir/alice.pub"]);
        let config = Config::load(&data.path().join(FILE_NAME)).unwrap();
        let identity = parse_public_key(&public).unwrap().blob;
        let (node, settings) = (config.node.name.clone(), config.settings());
        let around = crate::admin::Surroundings { node, settings, identity, peers: Default::default(), programs: None };
        let checked = crate::admin::check(&admin, &commit, &around).unwrap_or_else(|rejected| panic!("{rejected}"));
        assert_eq!(checked.warnings, "");

        assert!(done(&args).contains("nothing was changed"));
        assert!(done(&Args { admin_key: None, ..args.clone() }).contains("nothing was changed"));
        assert!(done(&Args { admin: Some("alice".into()), ..args }).contains("nothing was changed"));
        assert_eq!(objects::head_commit(&admin).unwrap(), Some(commit));
    }

    #[test]
    fn a_cut_off_run_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path(), &some_key(1, "alice@laptop"));
        done(&args);
        let data = DataDir::new(dir.path().join("data"));
        let identity = std::fs::read(data.identity()).unwrap();
        let admin = data.repositories().join("gitmesh-admin.git");
        std::fs::rename(&admin, data.state().join("new-admin.git")).unwrap();
        std::fs::remove_file(data.path().join("server1.pub")).unwrap();
        assert!(done(&args).starts_with("node server1 is set up in"));
        assert!(admin.exists() && data.path().join("server1.pub").exists());
        assert_eq!(std::fs::read(data.identity()).unwrap(), identity, "the identity is kept");
        assert!(done(&args).contains("nothing was changed"));
    }

    #[test]
    fn what_differs_is_said_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path(), &some_key(1, "alice@laptop"));
        done(&args);
        let (code, text) = refused(&Args { name: Some("server2".into()), listen: vec![], ..args.clone() });
        assert!(code == exit::CONFLICT && text.contains("called 'server1'"), "{text}");
        let (code, text) = refused(&Args { listen: vec!["[::]:23".into()], ..args.clone() });
        assert!(code == exit::CONFLICT && text.contains("listens on 127.0.0.1:2222"), "{text}");
        let (code, text) = refused(&Args { admin_key: Some(some_key(2, "x")), ..args.clone() });
        assert!(code == exit::CONFLICT && text.contains("is not in it"), "{text}");
        let (code, text) = refused(&Args { admin: Some("bob".into()), ..args });
        assert!(code == exit::CONFLICT && text.contains("of 'bob'"), "{text}");
    }

    #[test]
    fn bad_input_stops_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let good = args(dir.path(), &some_key(1, "alice@laptop"));
        for (bad, code, words) in [
            (
                Args { admin_key: Some("ssh-ed25519 AAAA nonsense".into()), ..good.clone() },
                exit::CONFIGURATION,
                "line 1",
            ),
            (Args { admin_key: Some("/nowhere/x.pub".into()), ..good.clone() }, exit::NOT_FOUND, "cannot be read"),
            (Args { admin_key: Some(" \n# x\n".into()), ..good.clone() }, exit::CONFIGURATION, "help: "),
            (Args { admin_key: None, ..good.clone() }, exit::USAGE, "first administrator"),
            (Args { name: Some("a/b".into()), ..good.clone() }, exit::USAGE, "--name"),
            (Args { admin: Some("server-x".into()), ..good.clone() }, exit::USAGE, "belong to nodes"),
            (Args { listen: vec!["22".into()], ..good.clone() }, exit::USAGE, "--listen"),
            (Args { address: Some("-x".into()), ..good.clone() }, exit::USAGE, "--address"),
        ] {
            let (found, text) = refused(&bad);
            assert!(found == code && text.contains(words), "{found} {text}");
            assert!(!dir.path().join("data").exists());
        }
    }

    #[test]
    fn the_administrator_is_named_by_the_key() {
        for (comment, admin) in [("alice@laptop", Some("alice")), ("", None), ("server-x", None), ("Ä b", None)] {
            let key = parse_admin_key(&some_key(1, comment), "here").unwrap();
            assert_eq!(key.owner.as_ref().map(UserName::as_str), admin, "{comment}");
        }
    }
}
