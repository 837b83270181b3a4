//! The table of worlds.

use std::fmt::Write as _;

use serin_analysis::ConfigError;
use serin_analysis::explain::thousands;

use super::World;
use super::release::{WorldResult, simulate};
use crate::parallel::{self, derive_seed};
use crate::proportion::{Proportion, format_percent};

/// Requests per second of the columns.
const REQUESTS_PER_SECOND: [f64; 2] = [100.0, 1000.0];

/// Size and seed of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldsOptions {
    /// Releases per cell.
    pub runs: u32,
    /// Base seed.
    pub seed: u64,
}

/// The releases of one world with one amount of traffic.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldCell {
    /// The world.
    pub world: World,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Rolled back releases: at a gateway, from pods.
    pub rolled_back: [Proportion; 2],
    /// Releases with a claimed bound, by mode.
    pub claimed: [Proportion; 2],
    /// Rolled back releases among those with a claimed bound, by mode.
    pub rolled_back_of_claimed: [Proportion; 2],
}

/// The releases of all worlds.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldReport {
    /// The options of this report.
    pub options: WorldsOptions,
    /// One cell per world and amount of traffic.
    pub cells: Vec<WorldCell>,
}

/// Simulates all worlds on all cores. The same options give the same report.
///
/// # Errors
/// An invalid configuration. Does not occur with the built-in configuration.
pub fn run(options: WorldsOptions) -> Result<WorldReport, ConfigError> {
    let mut cells = Vec::new();
    for (index, world) in (0..).zip(World::all()) {
        for (column, requests_per_second) in (0..).zip(REQUESTS_PER_SECOND) {
            let seed = derive_seed(options.seed, 2 * index + column);
            let results = parallel::map_seeds(options.runs, seed, |seed| {
                simulate(world, requests_per_second, seed)
            });
            let results = results.into_iter().collect::<Result<Vec<_>, _>>()?;
            let of_mode = |mode: usize| -> Vec<WorldResult> {
                results.iter().map(|modes| modes[mode]).collect()
            };
            let modes = [of_mode(0), of_mode(1)];
            let is_rolled_back = |result: &WorldResult| result.is_rolled_back;
            let is_claimed =
                |result: &WorldResult| result.claim.holds_for(world.meets_gateway_condition());
            cells.push(WorldCell {
                world,
                requests_per_second,
                rolled_back: [0, 1].map(|mode| Proportion::count(&modes[mode], is_rolled_back)),
                claimed: [0, 1].map(|mode| Proportion::count(&modes[mode], is_claimed)),
                rolled_back_of_claimed: [0, 1].map(|mode| {
                    let claimed: Vec<_> = modes[mode].iter().copied().filter(is_claimed).collect();
                    Proportion::count(&claimed, is_rolled_back)
                }),
            });
        }
    }
    Ok(WorldReport { options, cells })
}

/// Writes the table of a report.
pub fn markdown(report: &WorldReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} releases per cell, seed {}. Rolled back by evidence % within an hour, also after a \
         promotion. An objective of 99.9 %, stable fails 0.05 %, a scrape every 15 s, a weight of \
         20 % unless the row has other weights. In brackets: what is claimed at the first scrape (*c*: \
         the bound is claimed for most releases, with the percentage rolled back of those; *d*: it \
         is declared that it may not hold, or the condition of the claim is not met, for example \
         pods that are alike at a gateway).\n\n| world | gateway, 100/s | pods, 100/s | gateway, \
         1000/s | pods, 1000/s | |\n|---|---|---|---|---|---|",
        thousands(report.options.runs.into()),
        report.options.seed
    );
    for cells in report.cells.chunks(REQUESTS_PER_SECOND.len()) {
        let Some(first) = cells.first() else { continue };
        let values: Vec<_> = cells
            .iter()
            .flat_map(|cell| [0, 1].map(|mode| format_cell(cell, mode)))
            .collect();
        let note = if first.world.is_good() {
            ""
        } else {
            "the canary really fails more often"
        };
        let _ = writeln!(
            out,
            "| {} | {} | {note} |",
            first.world.name(),
            values.join(" | ")
        );
    }
    out
}

fn format_cell(cell: &WorldCell, mode: usize) -> String {
    let rolled_back = cell.rolled_back[mode].percent();
    let text = if rolled_back > 0.0 && rolled_back < 1.0 {
        format!("{rolled_back:.2}")
    } else {
        format_percent(rolled_back)
    };
    if !cell.world.is_good() {
        // The bound is about canaries that are as good as stable.
        return text;
    }
    if cell.claimed[mode].is_most() {
        let of_claimed = cell.rolled_back_of_claimed[mode].percent();
        format!("{text} (c, {})", format_percent(of_claimed))
    } else {
        format!("{text} (d)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_has_a_row_with_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            World::all().into_iter().map(World::name).collect();
        assert_eq!(names.len(), World::all().len());
        let report = run(WorldsOptions { runs: 1, seed: 1 }).unwrap();
        let table = markdown(&report);
        for name in names {
            assert!(table.contains(&format!("| {name} |")), "{name}");
        }
    }

    #[test]
    fn a_cell_shows_what_is_reported_beforehand() {
        let some = |count| Proportion { count, of: 100 };
        let mut cell = WorldCell {
            world: World::Plain,
            requests_per_second: 100.0,
            rolled_back: [some(3); 2],
            claimed: [some(80); 2],
            rolled_back_of_claimed: [some(0), Proportion { count: 2, of: 80 }],
        };
        assert_eq!(format_cell(&cell, 1), "3.0 (c, 2.5)");
        cell.claimed[1] = some(10);
        assert_eq!(format_cell(&cell, 1), "3.0 (d)");
        cell.world = World::CanaryOnBadNode;
        assert_eq!(
            format_cell(&cell, 1),
            "3.0",
            "no false rollback, so no claim"
        );
    }
}
