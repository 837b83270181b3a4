//! The error budget and the burn rate of the service, across all versions.
//!
//! These are estimates, not evidence, so Prometheus' `increase()` is sufficient. They are read
//! rarely and separately from the evidence, so that a query over a month of data does not delay the
//! analysis.
//!
//! If the service is younger than the window, or if Prometheus has a shorter retention, its
//! requests are extrapolated to the complete window. Its errors are not. Otherwise a new service
//! would have no budget for a release.

use std::time::Duration;

use serin_analysis::budget::ServiceBudget;
use serin_analysis::service_guard::{BurnAlert, WINDOW_PAIRS, WindowCounts, burn_alert};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::counter_selectors::CounterSelectors;
use crate::histogram::{EDGE_LABEL, Histogram};
use crate::idle_placebo::DatedPlacebo;
use crate::prometheus::{Answer, Poller, QueryError, Server, SingleAnswer};

/// How often the queries of a service are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    budget: Duration,
    guard: Duration,
    /// Retry period while the budget is unknown, for example because the service is new.
    until_known: Duration,
    /// Whether the queries are sent one after the other, so that they do not delay active releases.
    is_low_priority: bool,
}

impl Cadence {
    /// During a release.
    pub const RELEASE: Self = Self {
        budget: Duration::from_secs(60),
        guard: Duration::from_secs(15),
        until_known: Duration::from_secs(15),
        is_low_priority: false,
    };
    /// Without a release. Rare enough for thousands of Rollouts.
    pub const IDLE: Self = Self {
        budget: Duration::from_secs(3_600),
        guard: Duration::from_secs(3_600),
        until_known: Duration::from_secs(300),
        is_low_priority: true,
    };
}

/// Minimum number of requests in the window to estimate the error rate.
const MIN_HISTORY: f64 = 1_000.0;

/// Label with the name of each value in a combined query.
const LABEL: &str = "serin";
/// Name of the value with the number of series of a layout.
const LAYOUT: &str = "layout";
/// Name of the values with the bucket bounds of a histogram.
const EDGE: &str = "edge";

/// Error budget and burn rate of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSlo {
    budget: Option<RecordedPeriod>,
    windows: Option<[(WindowCounts, WindowCounts); 3]>,
    /// Highest request rate over any of the burn-rate windows, in requests per second.
    pub requests_per_second: f64,
    /// Whether the selector of errors has matched any series within the SLO window.
    pub errors_seen: bool,
    /// Bucket bounds of the histogram of a latency objective, in its unit. Empty while unknown.
    pub edges: Vec<f64>,
    /// Which of [`CounterSelectors::layouts`] have series.
    pub(crate) layouts: Vec<bool>,
    /// Latest placebo releases on stable's pods. Only read without a release, see
    /// [`crate::idle_placebo`].
    pub(crate) placebo: Option<DatedPlacebo>,
}

/// The part of the SLO window for which data exists.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RecordedPeriod {
    window_seconds: f64,
    covered_seconds: f64,
    requests: f64,
    bad: f64,
}

impl ServiceSlo {
    /// The error budget. `None` until it has been read.
    pub fn budget(&self, budget_fraction: f64) -> Option<ServiceBudget> {
        // Without requests the budget is unknown.
        let period = self.budget.filter(|period| period.requests > 0.0)?;
        let requests = project_requests(
            period.requests,
            period.window_seconds,
            period.covered_seconds,
        );
        Some(ServiceBudget::new(budget_fraction, requests, period.bad))
    }

    /// Whether the burn rate is known.
    pub(crate) fn knows_burning(&self) -> bool {
        self.windows.is_some() && self.budget.is_some()
    }

    /// A service of which only the placebo releases are known.
    pub fn with_placebo(placebo: Option<DatedPlacebo>) -> Self {
        Self {
            placebo,
            ..Self::default()
        }
    }

    /// Latest placebo releases on stable's pods without a release. `None` before they are known.
    pub fn placebo(&self) -> Option<DatedPlacebo> {
        self.placebo
    }

    /// SLO window in seconds.
    pub fn window_seconds(&self) -> Option<f64> {
        self.budget.map(|period| period.window_seconds)
    }

    /// Highest request rate over any of the burn-rate windows. `None` until it has been read.
    pub fn known_requests_per_second(&self) -> Option<f64> {
        self.windows.map(|_| self.requests_per_second)
    }

    /// Error rate of the service in the SLO window. Half an error is added, so that a service
    /// without errors does not get a rate of zero.
    pub fn usual_rate(&self) -> Option<f64> {
        let period = self
            .budget
            .filter(|period| period.requests >= MIN_HISTORY)?;
        Some(((period.bad + 0.5) / (period.requests + 1.0)).min(0.99))
    }

    /// The requests of the SLO window and of the burn-rate windows of an hour and more.
    pub(crate) fn recorded_windows(&self) -> Vec<WindowCounts> {
        let of_period = |period: RecordedPeriod| WindowCounts {
            requests: period.requests,
            bad: period.bad,
        };
        let pairs = self.windows.iter().flatten().zip(WINDOW_PAIRS);
        let long = pairs.filter(|(_, pair)| pair.long_seconds >= 3_600);
        let long = long.map(|((long, _), _)| *long);
        self.budget.map(of_period).into_iter().chain(long).collect()
    }

    /// The first pair of windows in which the budget burns too fast.
    pub fn burning(&self, budget_fraction: f64) -> Option<BurnAlert> {
        let covered_seconds = self.budget?.covered_seconds;
        let mut windows = self.windows?;
        for ((long, short), pair) in windows.iter_mut().zip(WINDOW_PAIRS) {
            long.requests =
                project_requests(long.requests, pair.long_seconds.into(), covered_seconds);
            short.requests =
                project_requests(short.requests, pair.short_seconds.into(), covered_seconds);
        }
        burn_alert(&windows, budget_fraction)
    }
}

fn project_requests(requests: f64, window_seconds: f64, covered_seconds: f64) -> f64 {
    requests * (window_seconds / covered_seconds.max(1.0)).max(1.0)
}

/// PromQL queries for the error budget and the burn rate of one objective's service.
#[derive(Clone, Debug)]
pub struct SloQueries {
    window_seconds: u64,
    /// Finest resolution of the data's age. Data without a result is younger.
    grain_seconds: u64,
    pub(crate) budget: String,
    pub(crate) guard: String,
}

impl SloQueries {
    /// Creates the queries for these counters and this SLO window.
    pub fn new(counters: &CounterSelectors, window: Duration) -> Self {
        let window_seconds = window.as_secs().max(60);
        // Renamed labels exist in another layout. The first layout with series is used.
        let of_any = |expression: &dyn Fn(&CounterSelectors) -> String| {
            let all: Vec<String> = counters.layouts().map(expression).collect();
            if all.len() > 1 {
                format!("({})", all.join(" or "))
            } else {
                all.concat()
            }
        };
        let requests = |seconds: u64| of_any(&|counters| requests_query(counters, seconds));
        let bad = |seconds: u64| of_any(&|counters| bad_query(counters, seconds));
        let present =
            |selector: &str| format!("count(present_over_time({selector}[{window_seconds}s]))");
        let seen = of_any(&|counters| {
            or_native_query(counters, present(&counters.errors), &|histogram| {
                present(&histogram.native)
            })
        });
        let mut budget = vec![
            with_name_label("total", &requests(window_seconds)),
            with_name_label("errors", &bad(window_seconds)),
            with_name_label("seen", &seen),
        ];
        if counters.histogram.is_some() {
            let buckets = |counters: &CounterSelectors| {
                counters
                    .histogram
                    .as_ref()
                    .map(|histogram| histogram.buckets.clone())
            };
            let count = |counters: &CounterSelectors| {
                format!(
                    "count by ({EDGE_LABEL}) ({})",
                    buckets(counters).unwrap_or_default()
                )
            };
            budget.push(with_name_label(EDGE, &of_any(&count)));
        }
        if counters.layouts().count() > 1 {
            let series = |(index, layout): (usize, &CounterSelectors)| {
                with_name_label(
                    &format!("{LAYOUT}{index}"),
                    &format!("count({})", layout.total_of_sides),
                )
            };
            budget.extend(counters.layouts().enumerate().map(series));
        }
        // Age of the data in three resolutions: sixtieths of the window, of the result, and of that
        // result.
        let mut range_seconds = window_seconds;
        for grain in 0..3 {
            let step_seconds = (range_seconds / 60).max(1);
            let oldest = |selector: &str| {
                format!(
                    "min(min_over_time(timestamp({selector})[{range_seconds}s:{step_seconds}s]))"
                )
            };
            let oldest = of_any(&|counters| {
                or_native_query(counters, oldest(&counters.total), &|histogram| {
                    oldest(&histogram.native)
                })
            });
            budget.push(with_name_label(
                &format!("age{grain}"),
                &format!("time() - {oldest}"),
            ));
            range_seconds = step_seconds;
            if range_seconds < 10 {
                break;
            }
        }
        let guard = WINDOW_PAIRS
            .iter()
            .flat_map(|pair| [pair.long_seconds, pair.short_seconds])
            .flat_map(|seconds| {
                [
                    with_name_label(&format!("total{seconds}"), &requests(seconds.into())),
                    with_name_label(&format!("errors{seconds}"), &bad(seconds.into())),
                ]
            });
        let grain_seconds = range_seconds;
        Self {
            window_seconds,
            grain_seconds,
            guard: guard.collect::<Vec<_>>().join(" or "),
            budget: budget.join(" or "),
        }
    }
}

/// A histogram may exist in the classic form, in the native form or in both. The first one that
/// exists is used.
fn or_native_query(
    counters: &CounterSelectors,
    classic: String,
    native: &dyn Fn(&Histogram) -> String,
) -> String {
    match &counters.histogram {
        Some(histogram) => format!("({classic} or {})", native(histogram)),
        None => classic,
    }
}

fn native_increase(histogram: &Histogram, seconds: u64) -> String {
    format!("sum(increase({}[{seconds}s]))", histogram.native)
}

fn requests_query(counters: &CounterSelectors, seconds: u64) -> String {
    let native =
        |histogram: &Histogram| format!("histogram_count({})", native_increase(histogram, seconds));
    or_native_query(
        counters,
        format!(
            "sum({})",
            counters.deduplicated_increase(&counters.total, seconds)
        ),
        &native,
    )
}

fn bad_query(counters: &CounterSelectors, seconds: u64) -> String {
    let [total, second] = [&counters.total, &counters.errors]
        .map(|selector| format!("sum({})", counters.deduplicated_increase(selector, seconds)));
    let native = |histogram: &Histogram| {
        let (all, edge) = (native_increase(histogram, seconds), histogram.threshold());
        format!("histogram_count({all}) * (1 - histogram_fraction(-Inf, {edge}, {all}))")
    };
    // Both are extrapolated, so that their difference can be slightly negative.
    let slow = || format!("clamp_min({total} - {second}, 0)");
    let classic = if counters.histogram.is_some() {
        slow()
    } else {
        second.clone()
    };
    or_native_query(counters, classic, &native)
}

fn with_name_label(name: &str, expression: &str) -> String {
    format!("label_replace({expression}, \"{LABEL}\", \"{name}\", \"\", \"\")")
}

/// A value of a combined answer. NaN and infinity count as missing.
fn number_named(answer: &Answer, name: &str) -> Option<f64> {
    let series = answer
        .iter()
        .find(|series| series.labels.get(LABEL).is_some_and(|label| label == name))?;
    series
        .samples
        .last()
        .map(|(_, value)| *value)
        .filter(|value| value.is_finite())
}

/// Bucket bounds in a combined answer.
fn edges_in(answer: &Answer) -> Vec<f64> {
    let edges = answer
        .iter()
        .filter(|series| series.labels.get(LABEL).is_some_and(|label| label == EDGE));
    edges
        .filter_map(|series| series.labels.get(EDGE_LABEL)?.parse().ok())
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a window is far below 2^53 seconds"
)]
fn apply_budget(service: &mut ServiceSlo, queries: &SloQueries, answer: &Answer) {
    let ages = (0..3).filter_map(|grain| number_named(answer, &format!("age{grain}")));
    // If the data is younger than the finest resolution, that resolution is used. This makes the
    // budget smaller, never larger.
    let covered_seconds = ages
        .reduce(f64::max)
        .unwrap_or(queries.grain_seconds as f64);
    service.errors_seen |= number_named(answer, "seen").is_some_and(|count| count > 0.0);
    service.edges = edges_in(answer);
    service.layouts = (0..)
        .map_while(|index| has_layout(queries, answer, index))
        .collect();
    if let Some(requests) = number_named(answer, "total") {
        service.budget = Some(RecordedPeriod {
            window_seconds: queries.window_seconds as f64,
            covered_seconds,
            requests,
            bad: number_named(answer, "errors").unwrap_or(0.0),
        });
    }
}

/// Whether a layout has series. `None` after the last layout.
fn has_layout(queries: &SloQueries, answer: &Answer, index: usize) -> Option<bool> {
    let name = format!("{LAYOUT}{index}");
    queries
        .budget
        .contains(&format!("\"{name}\""))
        .then(|| number_named(answer, &name).is_some_and(|count| count > 0.0))
}

fn apply_burn_windows(service: &mut ServiceSlo, answer: &Answer) {
    let counts = |seconds: u32| WindowCounts {
        requests: number_named(answer, &format!("total{seconds}")).unwrap_or(0.0),
        bad: number_named(answer, &format!("errors{seconds}")).unwrap_or(0.0),
    };
    let windows = WINDOW_PAIRS.map(|pair| (counts(pair.long_seconds), counts(pair.short_seconds)));
    let rates = windows
        .iter()
        .zip(WINDOW_PAIRS)
        .flat_map(|((long, short), pair)| {
            [
                long.requests / f64::from(pair.long_seconds),
                short.requests / f64::from(pair.short_seconds),
            ]
        });
    service.requests_per_second = rates.fold(0.0, f64::max);
    service.windows = Some(windows);
}

/// Keeps the state of a service up to date until its last receiver is gone.
pub async fn keep_current(
    poller: Poller,
    server: Server,
    queries: SloQueries,
    cadence: Cadence,
    sender: watch::Sender<ServiceSlo>,
) {
    let mut budget_at = Instant::now();
    loop {
        let turn = if cadence.is_low_priority {
            Some(poller.low_priority_permit(&server).await)
        } else {
            None
        };
        let now = Instant::now();
        if now >= budget_at {
            let answer = poller.query_once(&server, &queries.budget, None).await;
            apply_or_warn(&answer, "budget", |answer| {
                sender.send_modify(|service| apply_budget(service, &queries, answer));
            });
            let is_known = answer.is_ok() && sender.borrow().budget.is_some();
            budget_at = now
                + if is_known {
                    cadence.budget
                } else {
                    cadence.until_known
                };
        }
        let answer = poller.query_once(&server, &queries.guard, None).await;
        apply_or_warn(&answer, "burn rate", |answer| {
            sender.send_modify(|service| apply_burn_windows(service, answer));
        });
        drop(turn);
        tokio::select! {
            () = sleep_until(budget_at.min(now + cadence.guard)) => {}
            () = sender.closed() => return,
        }
    }
}

/// The state of a service at a time in the past, in milliseconds since the epoch. Skips the budget
/// if `knows_budget` is set because the budget of `before` is recent enough.
///
/// # Errors
/// The query that failed. The caller keeps the previous state.
pub async fn load_at(
    poller: &Poller,
    server: &Server,
    queries: &SloQueries,
    at_ms: i64,
    before: &ServiceSlo,
    knows_budget: bool,
) -> Result<ServiceSlo, QueryError> {
    let mut service = before.clone();
    let query = async |query: &str| poller.query_once(server, query, Some(at_ms)).await;
    if !knows_budget {
        let answer = query(&queries.budget).await?;
        apply_budget(&mut service, queries, &answer);
    }
    let answer = query(&queries.guard).await?;
    apply_burn_windows(&mut service, &answer);
    Ok(service)
}

fn apply_or_warn(
    answer: &Result<SingleAnswer, QueryError>,
    what: &str,
    take: impl FnOnce(&Answer),
) {
    match answer {
        Ok(answer) => take(answer),
        // The previous state stays. The evidence does not depend on it.
        Err(error) => tracing::warn!(%error, "cannot read the {what} of the service"),
    }
}

#[cfg(test)]
impl ServiceSlo {
    /// A month of traffic with this request rate and this total number of errors.
    pub(crate) fn with_month_of_traffic(requests_per_second: f64, bad: f64) -> Self {
        const MONTH_SECONDS: f64 = 2_592_000.0;
        let requests = requests_per_second * MONTH_SECONDS;
        let period = RecordedPeriod {
            window_seconds: MONTH_SECONDS,
            covered_seconds: MONTH_SECONDS,
            requests,
            bad,
        };
        let nothing = WindowCounts {
            requests: 0.0,
            bad: 0.0,
        };
        Self {
            budget: Some(period),
            windows: Some([(nothing, nothing); 3]),
            requests_per_second,
            ..Self::default()
        }
    }

    /// A month of traffic whose last hours burn too fast in all pairs of windows.
    pub(crate) fn burning_service() -> Self {
        let counts = WindowCounts {
            requests: 1_000.0,
            bad: 200.0,
        };
        Self {
            windows: Some([(counts, counts); 3]),
            ..Self::with_month_of_traffic(10.0, 20.0)
        }
    }
}

#[cfg(test)]
mod tests;
