//! What there is: scenarios, sites, and the schedules that seeds draw.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use yakt_sim::harness::coverage::Site;
use yakt_sim::harness::runner::Piece;
use yakt_sim::harness::scenarios::{self, Scenario};

use super::output::{print_json, print_line};
use super::text::grouped;
use super::{DEFAULT_SCENARIO, Done, draw};

/// `cargo sim schedule`.
#[derive(Args)]
pub(super) struct Draw {
    /// The seed
    #[arg(long, value_name = "N")]
    seed: u64,
    /// Whose seed it is: see `cargo sim list`
    #[arg(long = "scenario", value_name = "NAME", default_value = DEFAULT_SCENARIO)]
    piece: Piece,
}

impl Draw {
    pub(super) fn run(self) -> Done {
        print_json(&draw(self.piece, self.seed)?)?;
        Ok(0)
    }
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// All columns but the first hold numbers.
pub(super) fn align_numbers(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// `cargo sim list`.
#[derive(Args)]
pub(super) struct List {
    /// Prints the lists as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Json {
    scenarios: Vec<JsonScenario>,
    sites: Vec<JsonSite>,
}

#[derive(Serialize)]
struct JsonScenario {
    name: &'static str,
    /// `drawn` or `scripted`.
    seeds: &'static str,
    about: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonSite {
    name: &'static str,
    due_within_seeds: u64,
}

impl List {
    pub(super) fn run(self) -> Done {
        if self.json {
            print_json(&json())?;
        } else {
            print_line(tables())?;
        }
        Ok(0)
    }
}

/// What `scenario`'s seeds are.
fn seeds_are(scenario: &Scenario) -> &'static str {
    if scenario.draw(0).is_some() { "drawn" } else { "scripted" }
}

/// For programs.
fn json() -> Json {
    let scenario = |scenario: &Scenario| JsonScenario {
        name: scenario.name,
        seeds: seeds_are(scenario),
        about: scenario.about,
    };
    let site = |site: &Site| JsonSite { name: site.name(), due_within_seeds: site.seeds() };
    Json {
        scenarios: scenarios::ALL.iter().map(scenario).collect(),
        sites: Site::ALL.iter().map(site).collect(),
    }
}

/// For people.
fn tables() -> String {
    let mut scenarios = table(&["scenario", "seeds are", "what it is"]);
    for scenario in scenarios::ALL {
        scenarios.add_row([scenario.name, seeds_are(scenario), scenario.about]);
    }
    let mut sites = table(&["site", "due within seeds"]);
    for site in Site::ALL {
        sites.add_row([site.name().to_owned(), grouped(site.seeds())]);
    }
    align_numbers(&mut sites);
    format!("{scenarios}\n\n{sites}")
}
