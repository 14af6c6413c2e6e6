//! What there is: scenarios, sites, and the schedules that seeds draw.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use yakt_sim::harness::coverage::Site;
use yakt_sim::harness::runner::Piece;
use yakt_sim::harness::scenarios;

use super::{DEFAULT_SCENARIO, Done, about, draw, text::grouped};

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
        println!("{}", serde_json::to_string_pretty(&draw(self.piece, self.seed)?)?);
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
pub(super) fn list() {
    let mut scenarios = table(&["scenario", "seeds are", "what it is"]);
    for scenario in scenarios::ALL {
        scenarios.add_row(about(scenario));
    }
    let mut sites = table(&["site", "due within seeds"]);
    for site in Site::ALL {
        sites.add_row([site.name().to_owned(), grouped(site.seeds())]);
    }
    align_numbers(&mut sites);
    println!("{scenarios}\n\n{sites}");
}
