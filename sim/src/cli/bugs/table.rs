//! Findings as tables: for a terminal, and for a Markdown file.

use std::env;
use std::time::Duration;

use comfy_table::presets;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::results::{Finding, Status};

/// What is before the table in a file that shows it, and what is after.
pub(super) const BEGIN: &str = "<!-- bugs: begin -->";
/// See [`BEGIN`].
pub(super) const END: &str = "<!-- bugs: end -->";

/// Columns of a terminal that does not say how many it has.
const WIDTH: u16 = 160;

const HEADER: [&str; 8] =
    ["bug", "what is broken", "expected", "caught", "by", "seeds until caught", "median", "time"];

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

/// The table as Markdown, and which code it is about.
pub(super) fn markdown(findings: &[Finding], limit: u64, revision: &str) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<_> =
            cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', "<br>")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut table = row(&HEADER.map(str::to_owned));
    table.push_str(&row(&HEADER.map(|_| "---".to_owned())));
    for finding in findings {
        table.push_str(&row(&cells(finding, limit)));
    }
    let bases = findings.iter().map(|finding| finding.trials.len()).max().unwrap_or_default();
    format!(
        "{}, at {revision}: at most {limit} seeds from each of {bases} bases.\n\n{table}",
        sum(findings)
    )
}

/// `old` with `table` between its markers; `None` when it has none.
pub(super) fn replace(old: &str, table: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn cells(finding: &Finding, limit: u64) -> [String; 8] {
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
    let seeds: Vec<_> = trials.iter().map(|trial| shown(trial.seeds)).collect();
    let median = if trials.is_empty() { String::new() } else { shown(*median) };
    let time = Duration::from_millis(trials.iter().map(|trial| trial.millis).sum());
    let time = format!("{:.0} s", time.as_secs_f64());
    [name.clone(), story.clone(), expected.clone(), caught, by, seeds.join(", "), median, time]
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

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        let new = replace(&old, "| t |\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n| t |\n{END}\nz\n"));
        assert_eq!(replace(&new, "| t |\n").unwrap(), new);
        assert!(replace("no markers", "t").is_none());
    }

    #[test]
    fn a_bug_has_one_line_of_markdown_whatever_it_says() {
        let bug = Bug::parse("x", "# story: a | b\n# expect: raft\n").unwrap();
        let finding =
            Finding::new(bug, Vec::new(), 3, Some("it does not build:\nerror".to_owned()));
        let text = markdown(&[finding], 200, "abc");
        assert!(text.starts_with("0 of 1 planted bugs caught, 1 broken, at abc"));
        assert!(text.contains("| x | a \\| b | raft | BROKEN | it does not build: |"));
        assert_eq!(text.lines().count(), 5);
    }
}
