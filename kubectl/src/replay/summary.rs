//! Summary of several releases, for each rule.

use serde::Serialize;

use super::comparison::{ReleaseComparison, RuleOutcome, Ruling};

/// Results of one rule over all releases.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSummary {
    /// The rule's name.
    pub rule: String,
    /// Number of releases that it rolls back.
    pub rolled_back: usize,
    /// Number of releases that it promotes.
    pub promoted: usize,
    /// Number of releases without a decision, including those left to a manual decision.
    pub undecided: usize,
    /// Median seconds from the first request to the rollback.
    pub median_seconds_to_roll_back: Option<f64>,
    /// Mean excess errors of a release.
    pub mean_errors: f64,
    /// Maximum excess errors of a release.
    pub most_errors: f64,
}

/// Summary of all releases.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplaySummary {
    /// Number of releases.
    pub releases: usize,
    /// Results within the record.
    pub on_record: Vec<RuleSummary>,
    /// Results including projections of worse canaries with a record shorter than an hour. Empty
    /// without projections.
    pub projected: Vec<RuleSummary>,
}

impl ReplaySummary {
    /// Summarizes the releases.
    pub fn new<'a>(releases: impl IntoIterator<Item = &'a ReleaseComparison>) -> Self {
        let releases: Vec<&ReleaseComparison> = releases.into_iter().collect();
        let is_projected = releases.iter().any(|release| release.is_projected());
        let mut names: Vec<&str> = Vec::new();
        for rule in releases.iter().flat_map(|release| &release.rules) {
            if !names.contains(&rule.rule.as_str()) {
                names.push(&rule.rule);
            }
        }
        let summarize = |result: fn(&RuleOutcome) -> RuleResult| -> Vec<RuleSummary> {
            names
                .iter()
                .map(|name| RuleSummary::new(name, &releases, result))
                .collect()
        };
        Self {
            releases: releases.len(),
            on_record: summarize(recorded_result),
            projected: if is_projected {
                summarize(projected_result)
            } else {
                Vec::new()
            },
        }
    }
}

/// Decision with the seconds until then, and the excess errors.
type RuleResult = (Option<(Ruling, f64)>, f64);

fn recorded_result(rule: &RuleOutcome) -> RuleResult {
    (
        rule.decided
            .map(|decided| (decided.ruling, decided.after_seconds)),
        rule.errors,
    )
}

fn projected_result(rule: &RuleOutcome) -> RuleResult {
    rule.projected.map_or_else(
        || recorded_result(rule),
        |projected| {
            (
                Some((projected.ruling, projected.after_seconds)),
                projected.errors,
            )
        },
    )
}

impl RuleSummary {
    fn new(
        name: &str,
        releases: &[&ReleaseComparison],
        result: fn(&RuleOutcome) -> RuleResult,
    ) -> Self {
        let rules = releases
            .iter()
            .flat_map(|release| release.rules.iter().filter(|rule| rule.rule == name));
        let all: Vec<RuleResult> = rules.map(result).collect();
        let count = |ruling| {
            all.iter()
                .filter(|(decided, _)| decided.is_some_and(|(decision, _)| decision == ruling))
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
