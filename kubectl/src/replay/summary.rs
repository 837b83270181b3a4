//! Several releases on record together: how each rule fared with them.

use serde::Serialize;

use super::compared::{Compared, Ruled, Ruling};

/// One rule and all releases.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fared {
    /// The rule's name.
    pub rule: String,
    /// How many it rolls back.
    pub rolled_back: usize,
    /// How many it promotes.
    pub promoted: usize,
    /// How many it decides nothing about, those left to a person included.
    pub undecided: usize,
    /// The median seconds from the first request to the rollback, of those rolled back.
    pub median_seconds_to_roll_back: Option<f64>,
    /// The mean errors of a release beyond stable's.
    pub mean_errors: f64,
    /// The most errors of a release beyond stable's.
    pub most_errors: f64,
}

/// All releases together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How many there are.
    pub releases: usize,
    /// By what is on record alone.
    pub on_record: Vec<Fared>,
    /// With what was projected of canaries that are worse, where their record is shorter than an
    /// hour; empty where nothing was.
    pub projected: Vec<Fared>,
}

impl Summary {
    /// Of these releases.
    pub fn of<'a>(releases: impl IntoIterator<Item = &'a Compared>) -> Self {
        let releases: Vec<&Compared> = releases.into_iter().collect();
        let is_projected = releases.iter().any(|release| release.is_projected());
        let mut names: Vec<&str> = Vec::new();
        for rule in releases.iter().flat_map(|release| &release.rules) {
            if !names.contains(&rule.rule.as_str()) {
                names.push(&rule.rule);
            }
        }
        let fared = |came_to: fn(&Ruled) -> CameTo| -> Vec<Fared> {
            names
                .iter()
                .map(|name| Fared::of(name, &releases, came_to))
                .collect()
        };
        Self {
            releases: releases.len(),
            on_record: fared(on_record),
            projected: if is_projected {
                fared(projected)
            } else {
                Vec::new()
            },
        }
    }
}

/// A decision and the seconds until then, and the errors.
type CameTo = (Option<(Ruling, f64)>, f64);

fn on_record(rule: &Ruled) -> CameTo {
    (
        rule.decided
            .map(|decided| (decided.ruling, decided.after_seconds)),
        rule.errors,
    )
}

fn projected(rule: &Ruled) -> CameTo {
    rule.projected.map_or_else(
        || on_record(rule),
        |projected| {
            (
                Some((projected.ruling, projected.after_seconds)),
                projected.errors,
            )
        },
    )
}

impl Fared {
    fn of(name: &str, releases: &[&Compared], came_to: fn(&Ruled) -> CameTo) -> Self {
        let rules = releases
            .iter()
            .flat_map(|release| release.rules.iter().filter(|rule| rule.rule == name));
        let all: Vec<CameTo> = rules.map(came_to).collect();
        let count = |ruling| {
            all.iter()
                .filter(|(decided, _)| decided.is_some_and(|(of, _)| of == ruling))
                .count()
        };
        let (rolled_back, promoted) = (count(Ruling::RollBack), count(Ruling::Promote));
        let rollbacks = all
            .iter()
            .filter_map(|(decided, _)| *decided)
            .filter(|(ruling, _)| *ruling == Ruling::RollBack);
        let errors = || all.iter().map(|(_, errors)| *errors);
        #[expect(clippy::cast_precision_loss, reason = "a number of releases")]
        let count = all.len().max(1) as f64;
        Self {
            rule: name.to_owned(),
            rolled_back,
            promoted,
            undecided: all.len() - rolled_back - promoted,
            median_seconds_to_roll_back: median(rollbacks.map(|(_, seconds)| seconds).collect()),
            mean_errors: errors().sum::<f64>() / count,
            most_errors: errors().fold(0.0, f64::max),
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (
        values.get(values.len().saturating_sub(1) / 2)?,
        values.get(values.len() / 2)?,
    );
    Some(f64::midpoint(*lower, *upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
