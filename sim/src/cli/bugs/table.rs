//! Findings as tables: for a terminal, and for a Markdown file.
//!
//! Each row says at which revision it was measured. In a file, a row stays until its bug is tried again or is gone, so
//! rows may be of different revisions; and what is to be said about the table stands outside of its markers.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::Duration;

use comfy_table::presets;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::catalogue::CONTROL;
use super::results::{Finding, Status, Trial};

/// What is before the table in a file that shows it, and what is after.
pub(super) const BEGIN: &str = "<!-- bugs: begin -->";
/// See [`BEGIN`].
pub(super) const END: &str = "<!-- bugs: end -->";

/// Columns of a terminal that does not say how many it has.
const WIDTH: u16 = 160;

const HEADER: [&str; 9] = [
    "bug",
    "what is broken",
    "expected",
    "caught",
    "by",
    "seeds until caught",
    "median",
    "time",
    "at",
];

/// The columns of [`HEADER`] that a file shows: the stories are in the patches.
const IN_FILES: [usize; 7] = [0, 3, 4, 5, 6, 7, 8];

/// The table for a terminal.
pub(super) fn terminal(findings: &[Finding], limit: u64) -> String {
    let width = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH);
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(HEADER);
    for finding in findings {
        table.add_row(cells(finding, limit));
    }
    for column in [6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n{}", sum(findings))
}

/// `old` with the table between its markers brought up to date; `None` when it has none. Rows stay that are of another
/// one of the bugs called `names`, or of a bug that was to be tried, but was not.
pub(super) fn replace(
    old: &str,
    findings: &[Finding],
    names: &BTreeSet<String>,
    limit: u64,
) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (between, after) = rest.split_once(END)?;
    let known = |name: &str| names.contains(name) || name.starts_with(CONTROL);
    let mut rows: BTreeMap<_, _> = between
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| ")?.split_once(" |")?.0, line)))
        .filter(|(name, _)| known(name))
        .map(|(name, line)| (name.to_owned(), format!("{line}\n")))
        .collect();
    for finding in findings {
        if finding.status != Status::Untried || !rows.contains_key(&finding.name) {
            rows.insert(finding.name.clone(), markdown(&cells(finding, limit)));
        }
    }
    let head = markdown(&HEADER.map(str::to_owned)) + &markdown(&HEADER.map(|_| "---".to_owned()));
    let rows: String = rows.into_values().collect();
    Some(format!("{before}{BEGIN}\n{head}{rows}{END}{after}"))
}

/// A row of Markdown.
fn markdown(cells: &[String; 9]) -> String {
    let shown = IN_FILES.map(|column| cells[column].replace('|', "\\|").replace('\n', "<br>"));
    format!("| {} |\n", shown.join(" | "))
}

fn cells(finding: &Finding, limit: u64) -> [String; 9] {
    let Finding { name, story, expected, status, trials, median, control, .. } = finding;
    let hits = trials.iter().filter(|trial| trial.caught.is_some()).count();
    let caught = match status {
        Status::Caught if *control => "NOT CLEAN".to_owned(),
        Status::Caught if hits == trials.len() => "yes".to_owned(),
        Status::Caught => format!("{hits} of {}", trials.len()),
        Status::Survived if *control => "clean".to_owned(),
        Status::Survived => "NO".to_owned(),
        Status::Untried => "not tried".to_owned(),
        Status::Broken => "BROKEN".to_owned(),
    };
    let by = match &finding.error {
        Some(error) => error.lines().next().unwrap_or_default().to_owned(),
        None => finding.ways().join("\n"),
    };
    let shown =
        |seeds: Option<u64>| seeds.map_or_else(|| format!(">{limit}"), |seeds| seeds.to_string());
    let bound = |trial: &Trial| if trial.at_most { "≤ " } else { "" };
    let seeds: Vec<_> =
        trials.iter().map(|trial| format!("{}{}", bound(trial), shown(trial.seeds))).collect();
    let median = if trials.is_empty() { String::new() } else { shown(*median) };
    let time = Duration::from_millis(trials.iter().map(|trial| trial.millis).sum());
    let time = format!("{:.0} s", time.as_secs_f64());
    let (seeds, at) = (seeds.join(", "), finding.revisions().join(", "));
    [name.clone(), story.clone(), expected.clone(), caught, by, seeds, median, time, at]
}

fn sum(findings: &[Finding]) -> String {
    let bugs = || findings.iter().filter(|finding| !finding.control);
    let count = |status| bugs().filter(|finding| finding.status == status).count();
    let (caught, untried, broken) =
        (count(Status::Caught), count(Status::Untried), count(Status::Broken));
    let mut parts = vec![format!("{caught} of {} planted bugs caught", bugs().count())];
    for (count, what) in [(untried, "not tried"), (broken, "broken")] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Bug;
    use super::*;

    fn finding(name: &str, trials: Vec<Trial>, error: Option<&str>) -> Finding {
        let bug = Bug::parse(name, "# story: a | b\n# expect: raft\n").unwrap();
        Finding::new(bug, trials, 1, error.map(str::to_owned))
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn trial(at: &str) -> Trial {
        let trial = r#"{"base":1,"seeds":null,"caught":null,"runs":9,"millis":1000}"#;
        serde_json::from_str::<Trial>(trial).unwrap().at(Some(at.to_owned()))
    }

    #[test]
    fn only_rows_that_were_measured_anew_change() {
        let rows =
            "| a | yes | old |\n| b | yes | old |\n| c | yes | old |\n| gone | yes | old |\n";
        let old = format!("above\n{BEGIN}\n| bug |\n| --- |\n{rows}{END}\nbelow\n");
        let found = [finding("b", vec![trial("abc")], None), finding("c", Vec::new(), None)];
        let new = replace(&old, &found, &names(&["a", "b", "c"]), 200).unwrap();
        let head = "| bug | caught | by | seeds until caught | median | time | at |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n";
        let rows = "| a | yes | old |\n\
                    | b | NO |  | >200 | >200 | 1 s | abc |\n\
                    | c | yes | old |\n";
        assert_eq!(new, format!("above\n{BEGIN}\n{head}{rows}{END}\nbelow\n"));
        assert_eq!(replace(&new, &found, &names(&["a", "b", "c"]), 200).unwrap(), new);
        assert!(replace("no markers", &found, &names(&[]), 200).is_none());
    }

    #[test]
    fn a_bug_has_one_line_of_markdown_whatever_is_said_of_it() {
        let broken = finding("x", Vec::new(), Some("it | does not\nbuild"));
        let text = replace(&format!("{BEGIN}{END}"), &[broken], &names(&["x"]), 200).unwrap();
        assert!(text.contains("| x | BROKEN | it \\| does not |"), "{text}");
        assert_eq!(text.lines().count(), 5);
    }
}
