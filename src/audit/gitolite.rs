//! Records as lines of gitolite's log, which existing scripts read: tabs between time (here in UTC), session, kind and
//! fields (`spec/access-language.md`, section 14).

use super::record::{Kind, Outcome, Record};

/// The lines of one record.
pub fn export(record: &Record) -> String {
    let time = record.time.get(..19).unwrap_or(&record.time).replace('T', ".");
    let head = format!("{time}\t{}", record.seq);
    let who = if record.user.is_empty() && !record.node.is_empty() {
        format!("server-{}", record.node)
    } else {
        record.user.clone()
    };
    let from = record.from.rsplit_once(':').map_or(record.from.as_str(), |(address, _)| address);
    let from = from.trim_matches(['[', ']']);
    let command = match record.kind {
        Kind::Access | Kind::Push => format!("{} '{}'", record.what, record.repo),
        _ => record.what.clone(),
    };
    let mut out = String::new();
    match record.kind {
        Kind::Create => return format!("{head}\tcreate\t{}\t{who}\t{}\n", record.repo, plain(&record.what)),
        Kind::Audit => return format!("{head}\t\tsystem,gitmesh,{}\n", plain(&record.reason)),
        Kind::Auth => return format!("{head}\twarn\t{} from {from}\n", plain(&record.reason)),
        Kind::Access | Kind::Push | Kind::Command => {
            out.push_str(&format!("{head}\tssh\tARGV={who}\tSOC={}\tFROM={from}\n", plain(&command)));
        }
    }
    if record.result == Outcome::Refused {
        out.push_str(&format!("{head}\tdie\t{}\n", plain(&record.reason)));
    } else if record.kind != Kind::Command {
        let letter = if record.kind == Kind::Push { 'W' } else { 'R' };
        let rule = if record.rule.is_empty() { "refs/.*" } else { &record.rule };
        out.push_str(&format!("{head}\tpre_git\t{}\t{who}\t{letter}\tany\t{rule}\n", record.repo));
    }
    for change in &record.refs {
        if change.result != Outcome::Ok {
            let why = plain(&change.reason);
            out.push_str(&format!("{head}\tdie\t{} {} {who} {why}\n", change.name, record.repo));
            continue;
        }
        // What gitolite calls the operation: a deletion is a rewind to it, without an own letter in the rules.
        let rewinds = change.op == "rewind" || change.new.bytes().all(|b| b == b'0');
        let op = if rewinds { "+" } else { "W" };
        let (repo, name, rule) = (&record.repo, &change.name, &change.rule);
        out.push_str(&format!("{head}\tupdate\t{repo}\t{who}\t{op}\t{name}\t{}\t{}\t{rule}\n", change.old, change.new));
    }
    out.push_str(&format!("{head}\tEND\n"));
    out
}

/// A field: no tab, and newlines as gitolite writes them.
fn plain(text: &str) -> String {
    text.replace('\n', "<<newline>>").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
