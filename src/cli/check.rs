//! `gitmesh check`: what a push of this admin repository would be told, on any machine, without a server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::{Refusal, exit};
use crate::admin::{Draft, Tree, draft};
use crate::config::Config;
use crate::git::upstream::{Upstream, upstream};
use crate::model::HostName;
use crate::policy::{Diagnostic, Settings};

/// Remarks shown as text; JSON and GitHub get all of them.
const REMARKS_SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A clone of gitmesh-admin, or any folder with conf/ and keydir/
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Tell what a push would change, against the upstream branch as last fetched
    #[arg(long)]
    plan: bool,
    /// How to print what is found
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Check it as this node does: the name that %HOSTNAME stands for
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// A node's gitmesh.toml, for its [access] settings and its name
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As the server shows it to whoever pushes
    Text,
    /// One object, schema gitmesh.check/1, with byte spans
    Json,
    /// Workflow commands that GitHub shows beside the lines
    Github,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dir = &args.dir;
    if !dir.is_dir() {
        let text = format!("there is no directory {}\nhelp: name a clone of gitmesh-admin", dir.display());
        return Err(Refusal::new(exit::NOT_FOUND, text).into());
    }
    let (settings, node) = surroundings(args)?;
    let found = draft(Tree::of_directory(dir)?, &settings, node.as_ref());
    let plan = if args.plan { plan(dir, &found, &settings, node.as_ref())? } else { None };
    let text = match args.format {
        Format::Text => text(&found, node.is_none()) + plan.as_deref().unwrap_or_default(),
        Format::Json => json(&found, plan.as_deref())?,
        Format::Github => github(&found, dir),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(if found.is_good() { exit::DONE } else { exit::FAILED }))
}

/// The plan as text; none when what is here does not compile.
fn plan(dir: &Path, found: &Draft, settings: &Settings, node: Option<&HostName>) -> anyhow::Result<Option<String>> {
    let Some(Upstream { name, commit, git_dir }) = upstream(dir)? else {
        let text = format!(
            "{} has no upstream branch to compare with\nhelp: run it in a clone of gitmesh-admin, or: git branch -u origin/main",
            dir.display()
        );
        return Err(Refusal::new(exit::NOT_FOUND, text).into());
    };
    if !found.is_good() {
        return Ok(None);
    }
    let before = draft(Tree::of_commit(&git_dir, &commit), settings, node);
    let plan = found.plan(&before).ok_or_else(|| {
        let text =
            format!("{name} does not compile, so there is nothing to compare with\nhelp: git fetch, then try again");
        Refusal::new(exit::FAILED, text)
    })?;
    Ok(Some(if plan.is_empty() { format!("plan: nothing changes against {name}\n") } else { plan }))
}

fn surroundings(args: &Args) -> anyhow::Result<(Settings, Option<HostName>)> {
    let config =
        args.config.as_ref().map(|path| Config::load(&std::path::absolute(path)?).map_err(anyhow::Error::from));
    let config = config.transpose()?;
    let node = args.node.as_ref().map(|name| {
        HostName::new(name).map_err(|e| Refusal::new(exit::USAGE, format!("'{name}' cannot name a node: {e}")))
    });
    let node = node.transpose()?.or_else(|| config.as_ref().map(|config| config.node.name.clone()));
    Ok((config.map_or_else(Settings::recommended, |config| config.settings()), node))
}

fn counts(found: &Draft) -> (usize, usize) {
    let errors = found.diagnostics.iter().filter(|remark| remark.is_error()).count();
    (errors, found.diagnostics.len() - errors)
}

fn text(found: &Draft, nodeless: bool) -> String {
    let mut text = found.rendered(REMARKS_SHOWN);
    let (errors, warnings) = counts(found);
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    if !text.is_empty() {
        text.push('\n');
    }
    let verdict = if found.is_good() { "good" } else { "refused" };
    text.push_str(&format!("{verdict}: {errors} error{}, {warnings} warning{}\n", plural(errors), plural(warnings)));
    if nodeless && !found.is_good() && found.diagnostics.iter().any(|remark| remark.message.contains("%HOSTNAME")) {
        text.push_str("help: %HOSTNAME stands for a node's name; say which one: gitmesh check --node server1\n");
    }
    text
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    ok: bool,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<Remark<'a>>,
    /// The lines of the plan, if it was asked for and can be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<&'a str>>,
}

/// Lines and columns from 1, columns and spans in bytes; absent when a whole file is meant.
#[derive(Serialize)]
struct Remark<'a> {
    severity: &'static str,
    code: &'static str,
    class: &'static str,
    message: &'a str,
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<Span>,
    #[serde(skip_serializing_if = "str::is_empty")]
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

#[derive(Serialize)]
struct Span {
    start: usize,
    end: usize,
}

fn severity(remark: &Diagnostic) -> &'static str {
    if remark.is_error() { "error" } else { "warning" }
}

fn column(found: &Draft, remark: &Diagnostic) -> Option<usize> {
    let start = remark.span.as_ref()?.start;
    let before = found.bytes_of(&remark.file)?.get(..start)?;
    Some(start - before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) + 1)
}

fn json(found: &Draft, plan: Option<&str>) -> anyhow::Result<String> {
    let (errors, warnings) = counts(found);
    let diagnostics = found.diagnostics.iter().map(|remark| as_json(found, remark)).collect();
    let plan = plan.map(|plan| plan.lines().filter_map(|line| line.strip_prefix("  ")).collect());
    let report = Report { schema: "gitmesh.check/1", ok: found.is_good(), errors, warnings, diagnostics, plan };
    Ok(serde_json::to_string(&report)? + "\n")
}

fn as_json<'d>(found: &Draft, remark: &'d Diagnostic) -> Remark<'d> {
    let Diagnostic { code, class, message, file, span, line, label, help, .. } = remark;
    Remark {
        severity: severity(remark),
        code,
        class,
        message,
        file,
        line: (*line > 0).then_some(*line),
        column: column(found, remark),
        span: span.clone().map(|span| Span { start: span.start, end: span.end }),
        label,
        help: help.as_deref(),
    }
}

/// Workflow commands; files by the path from where the command runs, which in a workflow is the clone's top.
fn github(found: &Draft, dir: &Path) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for remark in &found.diagnostics {
        let file = dir.join(&remark.file);
        let file = file.strip_prefix(".").unwrap_or(&file);
        let mut place = format!("file={}", property(&file.to_string_lossy()));
        if remark.line > 0 {
            place.push_str(&format!(",line={}", remark.line));
        }
        if let Some(column) = column(found, remark) {
            place.push_str(&format!(",col={column}"));
        }
        let help = remark.help.as_ref().map_or_else(String::new, |help| format!("\nhelp: {help}"));
        let text = data(&format!("{}{help}", remark.message));
        out.push_str(&format!("::{} {place},title={}::{text}\n", severity(remark), remark.code));
    }
    out
}
