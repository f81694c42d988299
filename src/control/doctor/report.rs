//! What the views of all nodes mean together. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Sight, Trouble, View, host_name};
use crate::control::peer::Kind;
use crate::model::HostName;

/// Clocks that differ by more make logs and expiries misleading.
const SKEW_MAX: Duration = Duration::from_secs(2);

/// A question about the time: when it was sent and answered by our clock, and what the other clock said between.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub asked_ms: u64,
    pub answered_ms: u64,
    pub theirs_ms: u64,
}

impl Moment {
    /// By how many milliseconds the other clock is certainly ahead (positive) or behind (negative): what lies outside
    /// the time that the question took. `None` when our own clock was set back meanwhile.
    pub fn skew_ms(self) -> Option<i64> {
        let Self { asked_ms, answered_ms, theirs_ms } = self;
        if answered_ms < asked_ms {
            return None;
        }
        let away = |from: u64| i64::try_from(theirs_ms).ok()?.checked_sub(i64::try_from(from).ok()?);
        if theirs_ms > answered_ms {
            away(answered_ms)
        } else if theirs_ms < asked_ms {
            away(asked_ms)
        } else {
            Some(0)
        }
    }

    /// The skew, if it is worth telling.
    pub fn wrong_ms(self) -> Option<i64> {
        self.skew_ms().filter(|skew| u128::from(skew.unsigned_abs()) > SKEW_MAX.as_millis())
    }
}

/// A node that was asked for its view.
pub(super) struct Asked {
    /// Or why there is none.
    pub view: Result<View, String>,
    /// When it was asked and when it answered, by the clock of whoever asked, in milliseconds since 1970.
    pub span: (u64, u64),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// A node, or two with an arrow.
    pub at: String,
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// The whole mesh, as seen from one node.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    from: String,
    /// Every node that somebody knows.
    nodes: Vec<String>,
    views: Vec<View>,
    problems: Vec<Problem>,
}

impl Report {
    pub fn of(from: &HostName, asked: BTreeMap<HostName, Asked>) -> Self {
        let mut nodes: BTreeSet<HostName> = asked.keys().cloned().collect();
        let views: BTreeMap<&HostName, &View> =
            asked.iter().filter_map(|(name, asked)| Some((name, asked.view.as_ref().ok()?))).collect();
        nodes.extend(views.values().flat_map(|view| view.sees.iter().filter_map(|sight| host_name(&sight.peer))));
        let mut problems = Vec::new();
        for (name, asked) in &asked {
            match &asked.view {
                Ok(view) => of_node(from, name, view, asked.span, &views, &mut problems),
                // The pair's own problem says it better, where there is one.
                Err(why) => {
                    let own = views.get(from).and_then(|view| sight(view, name));
                    if own.is_none_or(|own| own.seen.is_ok()) {
                        let cure = format!("look at the log of {name}; what it sees of the others is not known");
                        problems.push(problem(name.to_string(), true, why.clone(), cure));
                    }
                }
            }
        }
        versions(&views, &mut problems);
        problems.sort_by_key(|problem| !problem.trouble.grave);
        Self {
            version: 1,
            from: from.to_string(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
            problems,
            views: asked.into_values().filter_map(|asked| asked.view.ok()).collect(),
        }
    }

    pub fn is_grave(&self) -> bool {
        self.problems.iter().any(|problem| problem.trouble.grave)
    }
}

/// Nodes that have given no view, and that others see: each with one that sees it.
pub(super) fn missing(asked: &BTreeMap<HostName, Asked>) -> BTreeMap<HostName, HostName> {
    let mut found = BTreeMap::new();
    for (through, view) in asked.iter().filter_map(|(name, asked)| Some((name, asked.view.as_ref().ok()?))) {
        for peer in view.sees.iter().filter(|sight| sight.seen.is_ok()).filter_map(|sight| host_name(&sight.peer)) {
            if asked.get(&peer).is_none_or(|asked| asked.view.is_err()) {
                found.entry(peer).or_insert_with(|| through.clone());
            }
        }
    }
    found
}

fn problem(at: String, grave: bool, what: String, cure: String) -> Problem {
    Problem { at, trouble: Trouble { what, cure, grave } }
}

fn sight<'a>(view: &'a View, of: &HostName) -> Option<&'a Sight> {
    view.sees.iter().find(|sight| sight.peer == of.as_str())
}

/// What is wrong with one node and with the ways that begin at it.
fn of_node(
    from: &HostName,
    name: &HostName,
    view: &View,
    (asked_ms, answered_ms): (u64, u64),
    views: &BTreeMap<&HostName, &View>,
    problems: &mut Vec<Problem>,
) {
    problems.extend(view.troubles.iter().map(|trouble| Problem { at: name.to_string(), trouble: trouble.clone() }));
    if let Some(skew) = (Moment { asked_ms, answered_ms, theirs_ms: view.now_ms }).wrong_ms() {
        let way = if skew > 0 { "ahead of" } else { "behind" };
        let what = format!("its clock is {:.1} s {way} that of {from}", skew.unsigned_abs() as f64 / 1000.0);
        let cure = "let both follow a time server: timedatectl set-ntp true".to_owned();
        problems.push(problem(name.to_string(), true, what, cure));
    }
    for sight in &view.sees {
        let Some(peer) = host_name(&sight.peer) else { continue };
        let theirs = views.get(&peer);
        if let Err(unheard) = &sight.seen {
            let own = theirs.map(|view| &view.address).filter(|own| **own != sight.address);
            let cure = cure(name, &peer, &sight.address, unheard.kind, own);
            problems.push(problem(format!("{name} -> {peer}"), true, unheard.why.clone(), cure));
        }
        let Some(theirs) = theirs else { continue };
        if !theirs.sees.iter().any(|back| back.peer == name.as_str()) {
            let what = format!("{name} knows {peer}, and {peer} does not know {name}");
            let cure = format!("on {peer}: gitmesh peer add {name}.pub --address {}", view.address);
            problems.push(problem(format!("{peer} -> {name}"), true, what, cure));
        }
        if theirs.key != sight.key {
            let what = format!("{name} holds the key {} for {peer}, whose key is {}", sight.key, theirs.key);
            let cure = format!("on {name}: gitmesh peer add {peer}.pub, with the new file");
            problems.push(problem(format!("{name} -> {peer}"), true, what, cure));
        }
    }
}

fn cure(name: &HostName, peer: &HostName, address: &str, kind: Kind, own: Option<&String>) -> String {
    match kind {
        Kind::Refused => format!("on {peer}: gitmesh peer add {name}.pub"),
        Kind::WrongKey => format!(
            "if {peer} was made anew, on {name}: gitmesh peer add {peer}.pub with its new file; else find out who answers at {address}"
        ),
        Kind::Names => String::from(
            "on both: gitmesh peer list; give the files in peers/ the names that the nodes have in gitmesh.toml",
        ),
        Kind::Unreachable | Kind::Other => {
            let other = own.map_or(String::new(), |own| format!(" ({peer} says that it is at {own})"));
            format!(
                "start gitmesh on {peer}, and open its port for {name}; if it has another address{other}, on {name}: gitmesh peer add {peer}.pub --address git@HOST:PORT"
            )
        }
    }
}

/// A mesh of several versions works, and is not meant to stay so.
fn versions(views: &BTreeMap<&HostName, &View>, problems: &mut Vec<Problem>) {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, view) in views {
        by_version.entry(&view.gitmesh).or_default().push(name.as_str());
    }
    if by_version.len() > 1 {
        let what = by_version.iter().map(|(version, nodes)| format!("{version} on {}", nodes.join(", ")));
        let what = format!("the nodes run different versions of gitmesh: {}", what.collect::<Vec<_>>().join("; "));
        problems.push(problem("mesh".to_owned(), false, what, "upgrade the older ones".to_owned()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.nodes.len();
        let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
        writeln!(f, "{nodes}, asked by {}; a row calls, a column answers\n", self.from)?;
        let view = |node: &String| self.views.iter().find(|view| view.node == *node);
        let cell = |from: &String, to: &String| match view(from) {
            _ if from == to => "-".to_owned(),
            None => "?".to_owned(),
            Some(view) => match view.sees.iter().find(|sight| sight.peer == *to).map(|sight| &sight.seen) {
                None => ".".to_owned(),
                Some(Ok(heard)) => format!("{:.1} ms", Duration::from_micros(heard.took_us).as_secs_f64() * 1000.0),
                Some(Err(_)) => "FAILS".to_owned(),
            },
        };
        let mut rows = vec![[vec![String::new()], self.nodes.clone(), vec!["gitmesh".into(), "git".into()]].concat()];
        for from in &self.nodes {
            let cells: Vec<String> = self.nodes.iter().map(|to| cell(from, to)).collect();
            let versions = view(from).map_or([String::from("?"), "?".into()], |v| [v.gitmesh.clone(), v.git.clone()]);
            rows.push([vec![from.clone()], cells, versions.to_vec()].concat());
        }
        let widths: Vec<usize> =
            (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0)).collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate();
            let line: Vec<String> = cells
                .map(|(i, (cell, width))| if i == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") })
                .collect();
            writeln!(f, "  {}", line.join("  ").trim_end())?;
        }
        let legend: String = rows
            .iter()
            .skip(1)
            .flatten()
            .filter_map(|cell| match cell.as_str() {
                "." => Some("  . is no peer"),
                "?" => Some("  ? could not be asked"),
                _ => None,
            })
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if !legend.is_empty() {
            writeln!(f, "\n{legend}")?;
        }
        let (grave, notes): (Vec<_>, Vec<_>) = self.problems.iter().partition(|problem| problem.trouble.grave);
        for (problems, one, many) in [(&grave, "problem", "problems"), (&notes, "note", "notes")] {
            if problems.is_empty() {
                continue;
            }
            writeln!(f, "\n{} {}:", problems.len(), if problems.len() == 1 { one } else { many })?;
            for Problem { at, trouble } in problems {
                writeln!(f, "  {at}: {}\n      cure: {}", trouble.what.trim().replace('\n', " "), trouble.cure)?;
            }
        }
        if grave.is_empty() { writeln!(f, "\nno problems") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::doctor::{Heard, Unheard};

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn view(node: &str, peers: &[(&str, bool)]) -> View {
        let sees = peers.iter().map(|(peer, works)| Sight {
            peer: (*peer).to_owned(),
            address: format!("git@{peer}:22"),
            key: format!("key of {peer}"),
            seen: if *works {
                Ok(Heard { line: format!("Hello {node}, I am {peer}"), took_us: 640 })
            } else {
                Err(Unheard { why: format!("cannot reach {peer}"), kind: Kind::Unreachable })
            },
        });
        View {
            version: 1,
            node: node.to_owned(),
            gitmesh: "0.1.0".to_owned(),
            git: "2.47.3".to_owned(),
            now_ms: 1000,
            address: format!("git@{node}:22"),
            key: format!("key of {node}"),
            sees: sees.collect(),
            troubles: Vec::new(),
        }
    }

    fn report(views: Vec<View>) -> Report {
        let asked = views.into_iter().map(|view| (host(&view.node), Asked { view: Ok(view), span: (990, 1010) }));
        Report::of(&host("a"), asked.collect())
    }

    #[test]
    fn clocks() {
        for (asked_ms, answered_ms, theirs_ms, skew, wrong) in [
            (1000, 1010, 1005, Some(0), false),
            (1000, 1010, 1010, Some(0), false),
            (1000, 1010, 3010, Some(2000), false),
            (1000, 1010, 3011, Some(2001), true),
            (10_000, 10_010, 8_000, Some(-2000), false),
            (10_000, 10_010, 7_999, Some(-2001), true),
            // A slow answer may hide a small skew, and makes none.
            (1000, 31_000, 29_000, Some(0), false),
            (1000, 999, 500_000, None, false),
            (u64::MAX - 1, u64::MAX, 0, None, false),
        ] {
            let moment = Moment { asked_ms, answered_ms, theirs_ms };
            assert_eq!((moment.skew_ms(), moment.wrong_ms().is_some()), (skew, wrong), "{moment:?}");
        }
    }

    #[test]
    fn a_mesh_that_is_well() {
        let all = [("a", true), ("b", true), ("c", true)];
        let but = |me: &str| all.into_iter().filter(|(name, _)| *name != me).collect::<Vec<_>>();
        let report = report(["a", "b", "c"].map(|me| view(me, &but(me))).to_vec());
        assert!(!report.is_grave());
        let text = report.to_string();
        assert!(text.starts_with("3 nodes, asked by a; a row calls, a column answers\n"), "{text}");
        assert!(text.contains("\n  a       -  0.6 ms  0.6 ms    0.1.0  2.47.3\n"), "{text}");
        assert!(text.ends_with("\n\nno problems\n"), "{text}");
    }

    #[test]
    fn each_broken_pair_is_told_with_its_cure() {
        let mut b = view("b", &[("a", true)]);
        b.now_ms = 9000;
        b.gitmesh = "0.2.0".to_owned();
        b.troubles.push(Trouble { what: "the disk is full".into(), cure: "free some".into(), grave: true });
        b.key = "new key of b".to_owned();
        let c = view("c", &[("b", false)]);
        let report = report(vec![view("a", &[("b", true), ("c", false)]), b, c]);
        assert!(report.is_grave());
        let text = report.to_string();
        for words in [
            "b: its clock is 8.0 s ahead of that of a\n      cure: let both follow a time server",
            "b: the disk is full\n      cure: free some",
            "a -> b: a holds the key key of b for b, whose key is new key of b",
            "a -> c: cannot reach c\n      cure: start gitmesh on c",
            "c -> b: cannot reach b",
            "c -> a: a knows c, and c does not know a\n      cure: on c: gitmesh peer add a.pub",
            "mesh: the nodes run different versions of gitmesh: 0.1.0 on a, c; 0.2.0 on b",
            "1 note:",
            "FAILS",
        ] {
            assert!(text.contains(words), "{words:?} is missing in\n{text}");
        }
        assert!(!text.contains("no problems"), "{text}");
    }

    #[test]
    fn whom_one_cannot_ask_is_asked_through_another() {
        let of = |view: Result<View, String>| Asked { view, span: (990, 1010) };
        let a = view("a", &[("b", true), ("c", false), ("d", false)]);
        let b = view("b", &[("a", true), ("c", true), ("e", true)]);
        let failed = || of(Err("cannot reach it".to_owned()));
        let asked = [(host("a"), of(Ok(a))), (host("b"), of(Ok(b))), (host("c"), failed()), (host("d"), failed())];
        assert_eq!(missing(&asked.into()), [(host("c"), host("b")), (host("e"), host("b"))].into());
    }

    #[test]
    fn a_node_that_cannot_be_asked_is_a_row_of_question_marks() {
        let own = Asked { view: Ok(view("a", &[("b", true)])), span: (990, 1010) };
        let other = Asked { view: Err("it has no view".to_owned()), span: (990, 1010) };
        let report = Report::of(&host("a"), [(host("a"), own), (host("b"), other)].into());
        assert!(report.is_grave() && report.to_string().contains("b: it has no view"), "{report}");
        assert!(report.to_string().contains("? could not be asked"), "{report}");
    }
}
