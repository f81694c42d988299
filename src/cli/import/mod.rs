//! `gitmesh import gitolite`: the home of a gitolite user becomes a node, in place or as a copy.
//!
//! Promises: what is there is looked at and the configuration compiled before anything is written; the original is
//! never changed but for one line in the git config of each repository that is adopted in place; nothing that was made
//! here since is overwritten; a run that was cut off is finished by the next, and one more run takes over what has come
//! since. Never runs anything of what it finds: the rc file is read by a reader of ours.

mod carry_out;
mod home;
mod plan;
mod rc;
mod report;
mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::{Refusal, exit};
use crate::admin::{ADMIN_REPO, Address, DataDir, Tree, draft};
use crate::config::{Config, FILE_NAME, example, machine_name};
use crate::model::{HostName, RepoName};
use crate::repo::Store;
use crate::ssh::Listen;
use home::Home;
use plan::{Step, Taken};
use settings::Meaning;

/// gitolite's main file of rules, and ours.
const RULES_THERE: &str = "conf/gitolite.conf";
const RULES_HERE: &str = "conf/gitmesh.conf";
/// Remarks on the configuration that are shown.
const REMARKS_SHOWN: usize = 50;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// Take over a gitolite server: its rules, keys, settings and repositories
    Gitolite(GitoliteArgs),
}

#[derive(Debug, clap::Args)]
struct GitoliteArgs {
    /// The home directory of the user that runs gitolite
    path: PathBuf,
    /// Look at everything, compile the configuration and tell what would be done; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Copy into a data directory of its own and leave the home as it is; by default the home becomes the data directory
    #[arg(long)]
    copy: bool,
    #[arg(
        help = "Data directory of the copy [default: /var/lib/gitmesh for root, ~/.local/share/gitmesh for others]",
        long,
        value_name = "DIR",
        requires = "copy"
    )]
    data: Option<PathBuf>,
    #[arg(help = "What other nodes call this one [default: HOSTNAME of the rc file]", long, value_name = "NODE")]
    name: Option<String>,
    #[arg(
        help = "Address to listen on, may be repeated [default: [::]:22 for root, [::]:2222 for others]",
        long,
        value_name = "IP:PORT"
    )]
    listen: Vec<String>,
    /// How others reach this node, git@HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let From::Gitolite(args) = &args.from;
    match gitolite(args) {
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) => {
                eprintln!("gitmesh import: {refusal}");
                Ok(ExitCode::from(refusal.code))
            }
            Err(error) => Err(error),
        },
        done => done,
    }
}

/// Everything that was found out, before anything is done.
struct Import {
    home: Home,
    meaning: Meaning,
    data: DataDir,
    in_place: bool,
    config: Config,
    /// `gitmesh.toml`, unless there is one already.
    config_text: Option<String>,
    /// Repositories there, by their name here; the admin repository is one of them.
    steps: BTreeMap<RepoName, Step>,
    /// What cannot be read, as a sentence for a person.
    unreadable: Vec<String>,
    warnings: String,
}

fn gitolite(args: &GitoliteArgs) -> anyhow::Result<ExitCode> {
    let import = look(args)?;
    let mut report = report::Report::of(&import);
    if args.dry_run {
        print!("{}", report.text(report::Tense::Would));
    } else {
        carry_out::carry_out(&import, &mut report)?;
        print!("{}", report.text(report::Tense::Done));
    }
    let conflicts = import.steps.values().any(|step| *step == Step::Conflict);
    Ok(ExitCode::from(if conflicts { exit::CONFLICT } else { exit::DONE }))
}

fn look(args: &GitoliteArgs) -> anyhow::Result<Import> {
    let home = Home::read(&args.path)?;
    let data = data_dir(args, &home)?;
    let rc = std::fs::read(home.path.join(".gitolite.rc")).context("failed to read .gitolite.rc")?;
    let path = home.path.display().to_string();
    let known = [("$ENV{HOME}", path.clone()), ("$rc{GL_ADMIN_BASE}", format!("{path}/.gitolite"))];
    let rc = rc::parse(&String::from_utf8_lossy(&rc), &known.into());
    let mut meaning = settings::meaning(&rc, &home.path, &|word| crate::control::usage(&[word]).is_some());
    if meaning.local_code.as_ref().is_some_and(|local| *local == home.path.join(".gitolite/local")) {
        meaning.local_code = None;
        meaning.settings.insert("from_admin_repo", "true".to_owned());
        meaning.remarks.push(format!(
            "programs in local/ of {ADMIN_REPO} run as before ([hooks] from_admin_repo = true): whoever may push there can run anything"
        ));
    }
    if let Some(owner) = home.owner_name().filter(|owner| owner != "git" && owner != "root") {
        meaning.settings.insert("user", toml::Value::String(owner).to_string());
    }
    let (config, config_text) = configuration(args, &meaning, &data)?;
    let warnings = compile(&home, &config)?;
    let (steps, unreadable) = steps(&home, &data)?;
    let in_place = !args.copy;
    Ok(Import { home, meaning, data, in_place, config, config_text, steps, unreadable, warnings })
}

/// The home itself, or a directory apart from it.
fn data_dir(args: &GitoliteArgs, home: &Home) -> anyhow::Result<DataDir> {
    let conflict = |text: String| Refusal::new(exit::CONFLICT, text);
    if args.copy {
        let data = args.data.clone().map_or_else(DataDir::by_default, DataDir::new);
        let path = std::path::absolute(data.path())?;
        let path = path.canonicalize().unwrap_or(path);
        if path.starts_with(&home.path) || home.path.starts_with(&path) {
            let help = "name another directory with --data, or leave --copy away to adopt the home as it is";
            return Err(conflict(format!("{} and the home are one in the other\nhelp: {help}", path.display())).into());
        }
        super::init::refuse_foreign_owner(&data)?;
        return Ok(DataDir::new(path));
    }
    let data = DataDir::new(home.path.clone());
    super::init::refuse_foreign_owner(&data)?;
    if home.repositories != home.path.join("repositories") {
        let help = "import it with --copy";
        let text = format!("{} lies outside of the home\nhelp: {help}", home.repositories.display());
        return Err(conflict(text).into());
    }
    if !home.path.join(FILE_NAME).exists() {
        for ours in [data.peers(), data.hooks(), data.state()] {
            if ours.exists() {
                let help = "move it away, or import with --copy";
                let text = format!("{} is in the way: a node keeps its own things there\nhelp: {help}", ours.display());
                return Err(conflict(text).into());
            }
        }
    }
    Ok(data)
}

/// The settings of the node: those that are there already, or those that the rc file comes to.
fn configuration(args: &GitoliteArgs, meaning: &Meaning, data: &DataDir) -> anyhow::Result<(Config, Option<String>)> {
    let usage = |text: String| Refusal::new(exit::USAGE, text);
    let name = args.name.as_deref().or(meaning.node.as_deref()).map(HostName::new).transpose();
    let name = name.map_err(|e| usage(format!("the node's name: {e}; give another one with --name")))?;
    let path = data.path().join(FILE_NAME);
    if path.exists() {
        let config = Config::load(&path).map_err(|e| Refusal::new(exit::CONFIGURATION, e.to_string()))?;
        if let Some(name) = name.filter(|name| *name != config.node.name) {
            let help = "import into another directory with --copy --data DIR, or give the name that it has with --name";
            let text = format!(
                "{} is the node '{}', and this would be '{name}'. Nothing was changed.\nhelp: {help}",
                data.path().display(),
                config.node.name
            );
            return Err(Refusal::new(exit::CONFLICT, text).into());
        }
        return Ok((config, None));
    }
    let name =
        name.or_else(machine_name).ok_or_else(|| usage("give the node a name with --name server1".to_owned()))?;
    let listen = args.listen.iter().map(|text| text.parse()).collect::<Result<Vec<Listen>, _>>();
    let mut listen = listen.map_err(|e| usage(format!("--listen: {e}")))?;
    if listen.is_empty() {
        listen.push(super::init::default_listen());
    }
    let address: Option<Address> =
        args.address.as_deref().map(str::parse).transpose().map_err(|e| usage(format!("--address: {e}")))?;
    let text = with_settings(&example(&name, &listen, address.as_ref()), &meaning.settings);
    let config = Config::parse(&text, &path).map_err(|e| {
        let text = format!("the settings of .gitolite.rc do not fit: {e}");
        Refusal::new(exit::CONFIGURATION, text)
    })?;
    Ok((config, Some(text)))
}

/// The shipped file with other values; each key is in it once, at the start of a line.
fn with_settings(example: &str, settings: &BTreeMap<&'static str, String>) -> String {
    let line = |line: &str| {
        let key = line.split(" =").next().unwrap_or_default();
        settings.get(key).map_or_else(|| format!("{line}\n"), |value| format!("{key} = {value}\n"))
    };
    example.lines().map(line).collect()
}

/// The files of the admin repository as they will be here; those that change, with what becomes of them.
fn moved_rules(home: &Home) -> Option<(&'static str, &'static str)> {
    let has = |path: &str| home.files.contains_key(path);
    (has(RULES_THERE) && !has(RULES_HERE)).then_some((RULES_THERE, RULES_HERE))
}

/// Compiles what will be in force; the warnings.
fn compile(home: &Home, config: &Config) -> anyhow::Result<String> {
    let mut files = home.files.clone();
    if let Some((there, here)) = moved_rules(home)
        && let Some(rules) = files.remove(there)
    {
        files.insert(here.to_owned(), rules);
    }
    let found = draft(Tree::of_files(&home.top, files), &config.settings(), Some(&config.node.name));
    let said = found.rendered(REMARKS_SHOWN);
    if found.is_good() {
        return Ok(said);
    }
    let help = "mend it there by a push to gitolite-admin, and run this again; 'gitmesh explain CODE' tells more";
    let text = format!("the configuration is refused; nothing was changed\n{}\nhelp: {help}", said.trim_end());
    Err(Refusal::new(exit::CONFIGURATION, text).into())
}

/// What to do with each repository.
fn steps(home: &Home, data: &DataDir) -> anyhow::Result<(BTreeMap<RepoName, Step>, Vec<String>)> {
    let text = std::fs::read_to_string(journal(data)).unwrap_or_default();
    let taken = plan::journal(&text);
    let (there, here) = (store_of(&home.repositories, data), store_of(&data.repositories(), data));
    let mut steps = BTreeMap::new();
    let mut unreadable = Vec::new();
    for name in home.repos.keys() {
        if there.root() == here.root() {
            // Adopted in place: one repository, which cannot differ from itself.
            steps.insert(name.clone(), Step::Take);
            continue;
        }
        match decide(&there, name, &here, name, &taken) {
            Ok(step) => drop(steps.insert(name.clone(), step)),
            Err(error) => unreadable.push(format!("{name} cannot be read and is left out: {error:#}")),
        }
    }
    let (theirs, ours) = (RepoName::new(home::ADMIN_REPO_THERE)?, RepoName::new(ADMIN_REPO)?);
    let admin = decide(&there, &theirs, &here, &ours, &taken).context("failed to read the admin repository")?;
    steps.insert(ours, admin);
    Ok((steps, unreadable))
}

fn decide(
    there: &Store,
    theirs: &RepoName,
    here: &Store,
    ours: &RepoName,
    taken: &BTreeMap<String, Taken>,
) -> anyhow::Result<Step> {
    let now = if here.exists(ours) { Some(state_of(here, ours)?) } else { None };
    Ok(plan::step(&state_of(there, theirs)?, now.as_deref(), taken.get(ours.as_str())))
}

/// A digest of all that is taken over of a repository.
fn state_of(store: &Store, name: &RepoName) -> anyhow::Result<String> {
    let refs = store.digest(name)?;
    Ok(store.metadata(name).seal(store.ownership(name).unwrap_or_default().seal(refs)))
}

fn store_of(root: &Path, data: &DataDir) -> Store {
    Store::new(root.to_owned(), data.path().join("gitconfig"))
}

/// What was taken in, and in which state, see [`plan::journal`].
fn journal(data: &DataDir) -> PathBuf {
    data.state().join("imported")
}
