//! The service as a whole, every version together: its error budget and how fast it burns.
//!
//! Sizes, not evidence: here Prometheus' own `increase()` will do. It is read seldom and apart from
//! the evidence, so that a query over a month of data delays no judgement.
//!
//! A service that is younger than the period (or a Prometheus that remembers less of it) is taken
//! to go on as it has begun: its requests are projected onto the whole window, its bad ones are
//! counted as they are. Otherwise every new service would have no budget to release anything with.

use std::time::Duration;

use serin_analysis::budget::ServiceBudget;
use serin_analysis::guard::{Burning, WINDOW_PAIRS, WindowCounts, burning};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::histogram::{EDGE_LABEL, Histogram};
use crate::prometheus::{Answer, Poller, QueryError, Server};
use crate::selector::Counters;

/// How often a service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    budget: Duration,
    guard: Duration,
    /// A service without a budget yet, because it has just begun, is not left without one for long.
    unknown: Duration,
    /// Whether such questions are asked one after the other, so that they delay nobody who
    /// releases.
    in_turn: bool,
}

impl Cadence {
    /// While a release is under way.
    pub const RELEASE: Self = Self {
        budget: Duration::from_secs(60),
        guard: Duration::from_secs(15),
        unknown: Duration::from_secs(15),
        in_turn: false,
    };
    /// While none is: seldom enough for thousands of Rollouts.
    pub const IDLE: Self = Self {
        budget: Duration::from_secs(3_600),
        guard: Duration::from_secs(3_600),
        unknown: Duration::from_secs(300),
        in_turn: true,
    };
}

/// History of fewer requests than this says nothing of how often a service usually fails.
const LEAST_HISTORY: f64 = 1_000.0;

/// The label under which each number of a composed query comes back.
const LABEL: &str = "serin";
/// The name under which the number of series in each layout comes back.
const LAYOUT: &str = "layout";
/// The name under which the edges of a histogram come back, one series each.
const EDGE: &str = "edge";

/// What is known of the service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    budget: Option<Period>,
    windows: Option<[(WindowCounts, WindowCounts); 3]>,
    /// The most requests per second over any of the guard's windows.
    pub requests_per_second: f64,
    /// Whether the selector of errors has matched anything in the objective's period.
    pub errors_seen: bool,
    /// Where the buckets of a latency objective's histogram end, in its unit; none while that is
    /// not known.
    pub edges: Vec<f64>,
    /// Which of [`Counters::layouts`] have series.
    pub(crate) layouts: Vec<bool>,
}

/// The objective's period as far as it is on record.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Period {
    window_seconds: f64,
    covered_seconds: f64,
    requests: f64,
    bad: f64,
}

impl Service {
    /// The budget in errors; nothing where it could not be read yet.
    pub fn budget(&self, budget_fraction: f64) -> Option<ServiceBudget> {
        // Of a service without requests nothing says what its budget is.
        let period = self.budget.filter(|period| period.requests > 0.0)?;
        let requests = projected(
            period.requests,
            period.window_seconds,
            period.covered_seconds,
        );
        Some(ServiceBudget::new(budget_fraction, requests, period.bad))
    }

    /// Whether it could be read how fast the budget burns.
    pub(crate) fn knows_burning(&self) -> bool {
        self.windows.is_some() && self.budget.is_some()
    }

    /// The period that the objective covers, in seconds.
    pub fn window_seconds(&self) -> Option<f64> {
        self.budget.map(|period| period.window_seconds)
    }

    /// The most requests per second over any of the guard's windows, once they have been read.
    pub fn known_requests_per_second(&self) -> Option<f64> {
        self.windows.map(|_| self.requests_per_second)
    }

    /// How often the service failed before; half an error is added, so that a service that never
    /// failed is not taken never to.
    pub fn usual_rate(&self) -> Option<f64> {
        let period = self
            .budget
            .filter(|period| period.requests >= LEAST_HISTORY)?;
        Some(((period.bad + 0.5) / (period.requests + 1.0)).min(0.99))
    }

    /// The pair of windows that burns too fast, if one does.
    pub fn burning(&self, budget_fraction: f64) -> Option<Burning> {
        let covered_seconds = self.budget?.covered_seconds;
        let mut windows = self.windows?;
        for ((long, short), pair) in windows.iter_mut().zip(WINDOW_PAIRS) {
            long.requests = projected(long.requests, pair.long_seconds.into(), covered_seconds);
            short.requests = projected(short.requests, pair.short_seconds.into(), covered_seconds);
        }
        burning(&windows, budget_fraction)
    }
}

fn projected(requests: f64, window_seconds: f64, covered_seconds: f64) -> f64 {
    requests * (window_seconds / covered_seconds.max(1.0)).max(1.0)
}

/// What is asked about one objective's service.
#[derive(Clone, Debug)]
pub struct Questions {
    window_seconds: u64,
    /// The finest grain in which the record's age is asked for; a record without an age is younger.
    grain_seconds: u64,
    budget: String,
    guard: String,
}

impl Questions {
    /// What to ask of these counters over the objective's period.
    pub fn new(counters: &Counters, window: Duration) -> Self {
        let window_seconds = window.as_secs().max(60);
        // What Prometheus has renamed is there under other labels: the first layout that is there
        // is the answer.
        let of_any = |expression: &dyn Fn(&Counters) -> String| {
            let all: Vec<String> = counters.layouts().map(expression).collect();
            if all.len() > 1 {
                format!("({})", all.join(" or "))
            } else {
                all.concat()
            }
        };
        let requests = |seconds: u64| of_any(&|counters| requests_of(counters, seconds));
        let bad = |seconds: u64| of_any(&|counters| bad_of(counters, seconds));
        let present =
            |selector: &str| format!("count(present_over_time({selector}[{window_seconds}s]))");
        let seen = of_any(&|counters| {
            or_native(counters, present(&counters.errors), &|histogram| {
                present(&histogram.native)
            })
        });
        let mut budget = vec![
            named("total", &requests(window_seconds)),
            named("errors", &bad(window_seconds)),
            named("seen", &seen),
        ];
        if counters.histogram.is_some() {
            let buckets = |counters: &Counters| {
                counters
                    .histogram
                    .as_ref()
                    .map(|histogram| histogram.buckets.clone())
            };
            let count = |counters: &Counters| {
                format!(
                    "count by ({EDGE_LABEL}) ({})",
                    buckets(counters).unwrap_or_default()
                )
            };
            budget.push(named(EDGE, &of_any(&count)));
        }
        if counters.layouts().count() > 1 {
            let series = |(index, layout): (usize, &Counters)| {
                named(
                    &format!("{LAYOUT}{index}"),
                    &format!("count({})", layout.total_of_sides),
                )
            };
            budget.extend(counters.layouts().enumerate().map(series));
        }
        // How far back the record goes, in three grains: sixtieths of the period, of that, and of
        // that.
        let mut range_seconds = window_seconds;
        for grain in 0..3 {
            let step_seconds = (range_seconds / 60).max(1);
            let oldest = |selector: &str| {
                format!(
                    "min(min_over_time(timestamp({selector})[{range_seconds}s:{step_seconds}s]))"
                )
            };
            let oldest = of_any(&|counters| {
                or_native(counters, oldest(&counters.total), &|histogram| {
                    oldest(&histogram.native)
                })
            });
            budget.push(named(&format!("age{grain}"), &format!("time() - {oldest}")));
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
                    named(&format!("total{seconds}"), &requests(seconds.into())),
                    named(&format!("errors{seconds}"), &bad(seconds.into())),
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

/// Of a histogram there may be the classic form, the native one or both: the first that is there is
/// the answer.
fn or_native(
    counters: &Counters,
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

fn requests_of(counters: &Counters, seconds: u64) -> String {
    let native =
        |histogram: &Histogram| format!("histogram_count({})", native_increase(histogram, seconds));
    or_native(
        counters,
        format!("sum({})", counters.increase_once(&counters.total, seconds)),
        &native,
    )
}

fn bad_of(counters: &Counters, seconds: u64) -> String {
    let [total, second] = [&counters.total, &counters.errors]
        .map(|selector| format!("sum({})", counters.increase_once(selector, seconds)));
    let native = |histogram: &Histogram| {
        let (all, edge) = (native_increase(histogram, seconds), histogram.threshold());
        format!("histogram_count({all}) * (1 - histogram_fraction(-Inf, {edge}, {all}))")
    };
    // Both are extrapolated, so that their difference may be a little below nothing.
    let slow = || format!("clamp_min({total} - {second}, 0)");
    let classic = if counters.histogram.is_some() {
        slow()
    } else {
        second.clone()
    };
    or_native(counters, classic, &native)
}

fn named(name: &str, expression: &str) -> String {
    format!("label_replace({expression}, \"{LABEL}\", \"{name}\", \"\", \"\")")
}

/// A number of a composed answer, by its name; not a number counts as absent.
fn number(answer: &Answer, name: &str) -> Option<f64> {
    let series = answer
        .iter()
        .find(|series| series.labels.get(LABEL).is_some_and(|label| label == name))?;
    series
        .samples
        .last()
        .map(|(_, value)| *value)
        .filter(|value| value.is_finite())
}

/// Where the buckets end, in an answer that tells it.
fn edges(answer: &Answer) -> Vec<f64> {
    let told = answer
        .iter()
        .filter(|series| series.labels.get(LABEL).is_some_and(|label| label == EDGE));
    told.filter_map(|series| series.labels.get(EDGE_LABEL)?.parse().ok())
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a window is far below 2^53 seconds"
)]
fn take_budget(service: &mut Service, questions: &Questions, answer: &Answer) {
    let ages = (0..3).filter_map(|grain| number(answer, &format!("age{grain}")));
    // Younger than the finest grain: taken to be as old, which makes the budget smaller, never
    // larger.
    let covered_seconds = ages
        .reduce(f64::max)
        .unwrap_or(questions.grain_seconds as f64);
    service.errors_seen |= number(answer, "seen").is_some_and(|count| count > 0.0);
    service.edges = edges(answer);
    service.layouts = (0..)
        .map_while(|index| is_layout(questions, answer, index))
        .collect();
    if let Some(requests) = number(answer, "total") {
        service.budget = Some(Period {
            window_seconds: questions.window_seconds as f64,
            covered_seconds,
            requests,
            bad: number(answer, "errors").unwrap_or(0.0),
        });
    }
}

/// Whether a layout has series; nothing after the last one.
fn is_layout(questions: &Questions, answer: &Answer, index: usize) -> Option<bool> {
    let name = format!("{LAYOUT}{index}");
    questions
        .budget
        .contains(&format!("\"{name}\""))
        .then(|| number(answer, &name).is_some_and(|count| count > 0.0))
}

fn take_guard(service: &mut Service, answer: &Answer) {
    let counts = |seconds: u32| WindowCounts {
        requests: number(answer, &format!("total{seconds}")).unwrap_or(0.0),
        bad: number(answer, &format!("errors{seconds}")).unwrap_or(0.0),
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

/// Keeps what is known of a service fresh until nobody follows it.
pub async fn follow(
    poller: Poller,
    server: Server,
    questions: Questions,
    cadence: Cadence,
    sender: watch::Sender<Service>,
) {
    let mut budget_at = Instant::now();
    loop {
        let turn = if cadence.in_turn {
            Some(poller.turn(&server).await)
        } else {
            None
        };
        let now = Instant::now();
        if now >= budget_at {
            let answer = poller.ask_once(&server, &questions.budget, None).await;
            note(&answer, "budget", |answer| {
                sender.send_modify(|service| take_budget(service, &questions, answer))
            });
            let is_known = answer.is_ok() && sender.borrow().budget.is_some();
            budget_at = now
                + if is_known {
                    cadence.budget
                } else {
                    cadence.unknown
                };
        }
        let answer = poller.ask_once(&server, &questions.guard, None).await;
        note(&answer, "burn rate", |answer| {
            sender.send_modify(|service| take_guard(service, answer))
        });
        drop(turn);
        tokio::select! {
            () = sleep_until(budget_at.min(now + cadence.guard)) => {}
            () = sender.closed() => return,
        }
    }
}

/// What was known of a service at a moment of the past, in milliseconds since the epoch; without
/// the budget where `knows_budget` says that what `before` knows of it is new enough.
///
/// # Errors
/// What went wrong, named; what was known before stands.
pub async fn at(
    poller: &Poller,
    server: &Server,
    questions: &Questions,
    at_ms: i64,
    before: &Service,
    knows_budget: bool,
) -> Result<Service, QueryError> {
    let mut service = before.clone();
    if !knows_budget {
        take_budget(
            &mut service,
            questions,
            &poller
                .ask_once(server, &questions.budget, Some(at_ms))
                .await?,
        );
    }
    take_guard(
        &mut service,
        &poller
            .ask_once(server, &questions.guard, Some(at_ms))
            .await?,
    );
    Ok(service)
}

fn note(answer: &Result<Answer, QueryError>, what: &str, take: impl FnOnce(&Answer)) {
    match answer {
        Ok(answer) => take(answer),
        // What was known stays; evidence is gathered all the same.
        Err(error) => tracing::warn!(%error, "the service's {what} could not be read"),
    }
}

#[cfg(test)]
impl Service {
    /// A month of so many requests a second, with so many bad ones in all.
    pub(crate) fn of_month(requests_per_second: f64, bad: f64) -> Self {
        const MONTH_SECONDS: f64 = 2_592_000.0;
        let requests = requests_per_second * MONTH_SECONDS;
        let period = Period {
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

    /// A month of which the last hours burn all pairs of windows.
    pub(crate) fn that_burns() -> Self {
        let counts = WindowCounts {
            requests: 1_000.0,
            bad: 200.0,
        };
        Self {
            windows: Some([(counts, counts); 3]),
            ..Self::of_month(10.0, 20.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use serin_analysis::budget::AllotmentShare;

    use super::*;
    use crate::fixtures::request;
    use crate::prometheus::Series;

    fn questions() -> Questions {
        let objective = serde_json::from_value(
            serde_json::json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}),
        )
        .unwrap();
        Questions::new(
            &Counters::new(&objective, &request()).unwrap(),
            Duration::from_secs(2_592_000),
        )
    }

    fn answer(numbers: &[(&str, f64)]) -> Answer {
        let series = |(name, value): &(&str, f64)| Series {
            labels: [(LABEL.to_owned(), (*name).to_owned())].into(),
            samples: vec![(0, *value)],
        };
        numbers.iter().map(series).collect()
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 1e-9
    }

    #[test]
    fn the_questions_are_promql() {
        let questions = questions();
        assert!(
            promql_parser::parser::parse(&questions.budget).is_ok(),
            "{}",
            questions.budget
        );
        assert!(
            promql_parser::parser::parse(&questions.guard).is_ok(),
            "{}",
            questions.guard
        );
        assert!(
            questions.budget.contains("[43200s:720s]"),
            "{}",
            questions.budget
        );
    }

    #[test]
    fn of_a_histogram_the_edges_are_asked_and_slow_is_what_is_not_fast() {
        let objective = serde_json::from_value(serde_json::json!({
            "name": "latency", "objective": 99, "indicator": "traefik", "latency": {"threshold": "300ms"}
        }))
        .unwrap();
        let questions = Questions::new(
            &Counters::new(&objective, &request()).unwrap(),
            Duration::from_secs(3_600),
        );
        for question in [&questions.budget, &questions.guard] {
            assert!(promql_parser::parser::parse(question).is_ok(), "{question}");
            assert!(
                question.contains("(increase(traefik_service_request_duration_seconds_count{"),
                "{question}"
            );
            assert!(
                question.contains(
                    "(1 - histogram_fraction(-Inf, 0.3, sum(increase(traefik_service_request_duration_seconds{"
                ),
                "{question}"
            );
        }
        let edge = |le: &str| Series {
            labels: [(LABEL, EDGE), (EDGE_LABEL, le)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: vec![(0, 3.0)],
        };
        let mut service = Service::default();
        take_budget(
            &mut service,
            &questions,
            &vec![edge("0.1"), edge("1.2"), edge("+Inf")],
        );
        assert_eq!(service.edges, [0.1, 1.2, f64::INFINITY]);
    }

    #[test]
    fn a_month_on_record_is_taken_as_it_is() {
        let mut service = Service::default();
        let month = 30.0 * 86_400.0;
        take_budget(
            &mut service,
            &questions(),
            &answer(&[
                ("total", 259_200_000.0),
                ("errors", 120_000.0),
                ("age0", month),
                ("age1", 43_000.0),
            ]),
        );
        let budget = service.budget(0.001).unwrap();
        assert!(near(budget.allotment(&AllotmentShare::default()), 5_184.0));
        assert!(!service.errors_seen);
    }

    #[test]
    fn a_young_service_is_projected_onto_the_period() {
        let mut service = Service::default();
        take_budget(
            &mut service,
            &questions(),
            &answer(&[
                ("total", 30_000.0),
                ("errors", 15.0),
                ("age2", 100.0),
                ("seen", 1.0),
            ]),
        );
        let budget = service.budget(0.001).unwrap();
        assert!(near(budget.total, 777_600.0));
        assert!(near(budget.remaining, 777_585.0));
        assert!(near(service.usual_rate().unwrap(), 15.5 / 30_001.0));
        assert!(service.errors_seen);
    }

    #[test]
    fn a_service_too_young_for_an_age_has_a_budget_all_the_same() {
        let mut service = Service::default();
        take_budget(
            &mut service,
            &questions(),
            &answer(&[("total", 3_000.0), ("errors", 3.0)]),
        );
        // 12 s, the finest grain of a month, are on record at most.
        assert!(near(
            service.budget(0.001).unwrap().total,
            3_000.0 / 12.0 * 2_592_000.0 * 0.001
        ));
    }

    #[test]
    fn without_errors_on_record_the_budget_is_whole_and_without_data_unknown() {
        let mut service = Service::default();
        take_budget(&mut service, &questions(), &answer(&[]));
        assert_eq!(service.budget(0.001), None);
        take_budget(
            &mut service,
            &questions(),
            &answer(&[("total", 100.0), ("age0", f64::NAN), ("age1", 10.0)]),
        );
        assert!(near(service.budget(0.001).unwrap().remaining, 25_920.0));
        assert_eq!(service.usual_rate(), None);
    }

    #[test]
    fn burning_needs_both_windows_and_a_young_service_is_projected() {
        let mut service = Service::default();
        let guard = answer(&[
            ("total3600", 30_000.0),
            ("errors3600", 900.0),
            ("total300", 30_000.0),
            ("errors300", 900.0),
            ("total21600", 30_000.0),
            ("errors21600", 900.0),
            ("total1800", 30_000.0),
            ("errors1800", 900.0),
            ("total900", 30_000.0),
            ("errors900", 900.0),
            ("total120", 30_000.0),
            ("errors120", 900.0),
        ]);
        take_guard(&mut service, &guard);
        assert!(near(service.requests_per_second, 250.0));
        assert_eq!(
            service.burning(0.001),
            None,
            "nothing is said before the record's age is known"
        );
        take_budget(
            &mut service,
            &questions(),
            &answer(&[("total", 30_000.0), ("errors", 900.0), ("age2", 100.0)]),
        );
        // 30 times the budget in 100 s: of an hour's budget that is less than one.
        assert_eq!(service.burning(0.001), None);
        take_budget(
            &mut service,
            &questions(),
            &answer(&[("total", 30_000.0), ("errors", 900.0), ("age2", 7_200.0)]),
        );
        assert_eq!(service.burning(0.001).unwrap().pair, WINDOW_PAIRS[0]);
    }
}
