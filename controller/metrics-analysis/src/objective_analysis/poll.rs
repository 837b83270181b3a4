//! How the metrics of an objective are read.

use std::time::Duration;

use super::ObjectiveAnalysis;
use crate::settings::poll_period;

/// The periodic queries of an objective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectivePoll {
    /// Instant queries, in this order.
    pub queries: Vec<String>,
    /// Time between two polls.
    pub period: Duration,
    /// Time range that the queries cover.
    pub range: Duration,
    /// Part of the range that must be covered by the previous poll, because its rounds were still
    /// open.
    pub open_range: Duration,
    /// Whether the queries return sums at the points of a grid instead of raw samples.
    pub is_aggregated: bool,
}

/// Time range of a poll of individual series: this number of scrapes, and at least the minimum.
const POLL_SCRAPES: u32 = 5;
const MIN_POLL_RANGE: Duration = Duration::from_secs(10);

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

impl ObjectiveAnalysis {
    /// The periodic queries.
    pub(crate) fn poll(&self) -> ObjectivePoll {
        let scrapes = duration(self.scrapes.interval_ms());
        if let Some(sums) = self.aggregation {
            let range = duration(sums.poll_ms());
            let queries = sums.queries(&self.counters, sums.poll_ms());
            let open = duration(sums.delay_ms()) + scrapes;
            let period = scrapes.max(poll_period(scrapes));
            return ObjectivePoll {
                queries,
                period,
                range,
                open_range: open,
                is_aggregated: true,
            };
        }
        // Whole seconds, so that equal settings result in equal queries, which are shared.
        let range = (scrapes * POLL_SCRAPES).max(MIN_POLL_RANGE);
        let range = Duration::from_secs(range.as_secs() + u64::from(range.subsec_nanos() > 0));
        let queries = self
            .counters
            .selectors()
            .map(|selector| format!("{selector}[{}s]", range.as_secs()))
            .collect();
        ObjectivePoll {
            queries,
            period: poll_period(scrapes),
            range,
            open_range: scrapes * 2,
            is_aggregated: false,
        }
    }

    /// A note for operators about how the metrics are read.
    pub(crate) fn read_note(&self) -> Option<String> {
        let summed = self.aggregation.map(|sums| {
            let late = duration(sums.delay_ms()).as_secs();
            format!(
                "There are too many series to read them individually. Prometheus adds up the \
                 increments of each scrape target, which delays the results by up to {late} s."
            )
        });
        let sentences: Vec<String> = summed
            .into_iter()
            .chain(self.endpoint_note())
            .chain(self.baseline_note())
            .chain(self.scrape_interval_mismatch())
            .collect();
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }

    /// Reports that the samples arrive at another interval than configured.
    pub(crate) fn scrape_interval_mismatch(&self) -> Option<String> {
        self.scrapes.mismatch(self.is_configured)
    }
}
