//! A scripted Prometheus: evaluates range selectors over in-memory samples, and returns fixed
//! values for other queries.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::post;
use promql_parser::parser::{self, Expr, VectorSelector};
use serde_json::{Value, json};
use serin_fake_cluster::tls::TlsListener;
use serin_metrics_analysis::prometheus::{Labels, Series};

use crate::clock::Clock;

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Normal,
    Hangs,
    /// Only aggregation queries hang, which read long histories.
    HangsOnHistory,
    Warns,
    Refuses,
    NotANumber,
    Truncated,
}

#[derive(Debug, Default)]
struct ScriptState {
    mode: Mode,
    series: Vec<Series>,
    service: Vec<(&'static str, f64)>,
    values: HashMap<String, Vec<f64>>,
    queried_at_ms: Vec<i64>,
    aggregated_ms: Vec<i64>,
    token: Option<String>,
}

/// A request that hangs, until its client gives up.
struct HangingRequest(Arc<AtomicUsize>);

impl HangingRequest {
    fn new(hanging: &Arc<AtomicUsize>) -> Self {
        hanging.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(hanging))
    }
}

impl Drop for HangingRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The scripted server.
#[derive(Clone, Debug)]
pub(super) struct ScriptedPrometheus {
    state: Arc<Mutex<ScriptState>>,
    clock: Arc<Mutex<Clock>>,
    hanging: Arc<AtomicUsize>,
    pub url: String,
}

impl ScriptedPrometheus {
    pub(super) async fn start(clock: Clock) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(listener, url, clock)
    }

    /// The same with TLS.
    pub(super) fn start_with_tls(listener: TlsListener, clock: Clock) -> Self {
        let url = listener.url().unwrap();
        Self::serve(listener, url, clock)
    }

    fn serve<L: axum::serve::Listener<Addr: std::fmt::Debug>>(
        listener: L,
        url: String,
        clock: Clock,
    ) -> Self {
        let prometheus = Self {
            state: Arc::default(),
            clock: Arc::new(Mutex::new(clock)),
            hanging: Arc::default(),
            url,
        };
        let router = Router::new()
            .route("/api/v1/query", post(answer))
            .with_state(prometheus.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        prometheus
    }

    pub(super) fn set_clock(&self, clock: Clock) {
        *self.clock.lock().unwrap() = clock;
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    pub(super) fn set_series(&self, series: Vec<Series>) {
        self.state.lock().unwrap().series = series;
    }

    pub(super) fn set_service(&self, numbers: &[(&'static str, f64)]) {
        self.state.lock().unwrap().service = numbers.to_vec();
    }

    /// From now on, requests with another `Authorization` header are rejected.
    pub(super) fn set_token(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    /// Sets the result of exactly this query.
    pub(super) fn set_values(&self, query: &str, values: &[f64]) {
        self.state
            .lock()
            .unwrap()
            .values
            .insert(query.to_owned(), values.to_vec());
    }

    /// The evaluation times of the range selectors so far, in milliseconds since the epoch.
    pub(super) fn queried_at_ms(&self) -> Vec<i64> {
        self.state.lock().unwrap().queried_at_ms.clone()
    }

    /// The time ranges of the aggregation queries so far, in milliseconds.
    pub(super) fn aggregated_ms(&self) -> Vec<i64> {
        self.state.lock().unwrap().aggregated_ms.clone()
    }

    /// Number of requests that hang at the moment.
    pub(super) fn hanging(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }

    fn matrix(&self, query: &str, at_ms: i64) -> Option<Vec<Value>> {
        if let Some(sums) = AggregationQuery::parse(query) {
            let mut state = self.state.lock().unwrap();
            state.aggregated_ms.push(sums.range_ms);
            return Some(sums.answer(&state.series, at_ms));
        }
        let Ok(Expr::MatrixSelector(matrix)) = parser::parse(query) else {
            return None;
        };
        let mut state = self.state.lock().unwrap();
        state.queried_at_ms.push(at_ms);
        let from_ms = at_ms - i64::try_from(matrix.range.as_millis()).unwrap();
        let mode = state.mode;
        let selected = state
            .series
            .iter()
            .filter(|series| is_selected(&matrix.vs, &series.labels));
        let found = selected.filter_map(|series| {
            let values: Vec<Value> = series
                .samples
                .iter()
                .filter(|(sample_ms, _)| (from_ms + 1..=at_ms).contains(sample_ms))
                .map(|(sample_ms, value)| {
                    let value = if mode == Mode::NotANumber {
                        "NaN".to_owned()
                    } else {
                        value.to_string()
                    };
                    #[expect(clippy::cast_precision_loss, reason = "milliseconds of today")]
                    let seconds = *sample_ms as f64 / 1_000.0;
                    json!([seconds, value])
                })
                .collect();
            (!values.is_empty()).then(|| json!({"metric": series.labels, "values": values}))
        });
        Some(found.collect())
    }
}

/// A parsed aggregation query. The tests of `serin_metrics_analysis` compare these queries with a
/// real Prometheus.
struct AggregationQuery {
    selector: VectorSelector,
    by: Vec<String>,
    range_ms: i64,
    step_ms: i64,
    of_scrapes: bool,
}

impl AggregationQuery {
    fn parse(query: &str) -> Option<Self> {
        let Ok(Expr::Subquery(subquery)) = parser::parse(query) else {
            return None;
        };
        let between = |from: &str, to: &str| {
            query
                .split_once(from)
                .and_then(|(_, rest)| rest.split_once(to))
        };
        let of_scrapes = query.contains("timestamp(");
        let (selector, _) = if of_scrapes {
            between("timestamp(", ")))[")
        } else {
            between("last_over_time(", "[300000ms]")
        }?;
        let Ok(Expr::VectorSelector(selector)) = parser::parse(selector) else {
            return None;
        };
        let (by, _) = between("by (", ")")?;
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap();
        Some(Self {
            selector,
            by: by.split(", ").map(str::to_owned).collect(),
            range_ms: millis(subquery.range),
            step_ms: millis(subquery.step.unwrap()),
            of_scrapes,
        })
    }

    /// The summed increments of all series, for each step.
    fn answer(&self, series: &[Series], at_ms: i64) -> Vec<Value> {
        let last = |series: &Series, at_ms: i64| {
            let before = series
                .samples
                .partition_point(|(sample_ms, _)| *sample_ms <= at_ms);
            let last = series.samples[..before].last().copied();
            last.filter(|(sample_ms, _)| *sample_ms > at_ms - 300_000)
        };
        let selected = series
            .iter()
            .filter(|series| is_selected(&self.selector, &series.labels));
        let selected: Vec<&Series> = selected.collect();
        let mut sums: BTreeMap<(Vec<String>, &str), BTreeMap<i64, f64>> = BTreeMap::new();
        let first = (at_ms - self.range_ms).div_euclid(self.step_ms) + 1;
        for step_ms in (first..=at_ms.div_euclid(self.step_ms)).map(|step| step * self.step_ms) {
            for of in &selected {
                let Some((scraped_ms, now)) = last(of, step_ms) else {
                    continue;
                };
                let group: Vec<String> = self
                    .by
                    .iter()
                    .map(|label| label_of(&of.labels, label))
                    .collect();
                let is_known = |known: &&Series| {
                    let is_same = ["job", "instance"]
                        .iter()
                        .all(|name| known.labels[*name] == of.labels[*name]);
                    is_same && last(known, step_ms - self.step_ms).is_some()
                };
                let mut add = |age: &'static str, value: f64| {
                    *sums
                        .entry((group.clone(), age))
                        .or_default()
                        .entry(step_ms)
                        .or_default() += value;
                };
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of today")]
                match last(of, step_ms - self.step_ms) {
                    _ if self.of_scrapes => {
                        sums.entry((group, ""))
                            .or_default()
                            .insert(step_ms, scraped_ms as f64 / 1_000.0);
                    }
                    Some((_, before)) => {
                        add("known", if now >= before { now - before } else { now });
                    }
                    None if series.iter().any(|known| is_known(&known)) => add("new", now),
                    None => {}
                }
            }
        }
        let state = sums.into_iter().map(|((group, age), steps)| {
            let mut labels: Labels = self.by.iter().cloned().zip(group).collect();
            labels.extend((!age.is_empty()).then(|| ("serin".to_owned(), age.to_owned())));
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of today")]
            let values = steps
                .into_iter()
                .map(|(step_ms, value)| json!([step_ms as f64 / 1_000.0, value.to_string()]));
            json!({"metric": labels, "values": values.collect::<Vec<_>>()})
        });
        state.collect()
    }
}

fn label_of(labels: &Labels, label: &str) -> String {
    labels.get(label).cloned().unwrap_or_default()
}

fn is_selected(selector: &VectorSelector, labels: &Labels) -> bool {
    let mut matchers = selector.matchers.matchers.iter();
    selector
        .name
        .as_ref()
        .is_none_or(|name| labels["__name__"] == *name)
        && matchers.all(|matcher| matcher.is_match(&label_of(labels, &matcher.name)))
}

/// A vector of these values, each with a label.
fn vector<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> Value {
    let result: Vec<Value> = values
        .map(|(name, value)| json!({"metric": {"serin": name}, "value": [1, value.to_string()]}))
        .collect();
    json!({"resultType": "vector", "result": result})
}

async fn answer(
    State(prometheus): State<ScriptedPrometheus>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let token = prometheus.state.lock().unwrap().token.clone();
    if token.is_some_and(|token| {
        headers
            .get("authorization")
            .is_none_or(|given| given.as_bytes() != token.as_bytes())
    }) {
        return (StatusCode::UNAUTHORIZED, "unauthorized".to_owned());
    }
    let uri: Uri = format!("http://prometheus/?{body}").parse().unwrap();
    let Query(form) = Query::<HashMap<String, String>>::try_from_uri(&uri).unwrap();
    let mode = prometheus.state.lock().unwrap().mode;
    let is_history = || AggregationQuery::parse(&form["query"]).is_some();
    if mode == Mode::Hangs || (mode == Mode::HangsOnHistory && is_history()) {
        let _request = HangingRequest::new(&prometheus.hanging);
        pending::<()>().await;
    }
    if mode == Mode::Refuses {
        let body = json!({"status": "error", "errorType": "bad_data", "error": "parse error"});
        return (StatusCode::BAD_REQUEST, body.to_string());
    }
    let now_ms = prometheus.clock.lock().unwrap().now().as_millisecond();
    let at_ms = form.get("time").map_or(now_ms, |time| {
        let (seconds, millis) = time.split_once('.').unwrap();
        seconds.parse::<i64>().unwrap() * 1_000 + millis.parse::<i64>().unwrap()
    });
    let data = prometheus.matrix(&form["query"], at_ms).map_or_else(
        || {
            let state = prometheus.state.lock().unwrap();
            match state.values.get(&form["query"]) {
                Some(values) => vector(values.iter().map(|value| ("value", *value))),
                None => vector(state.service.iter().copied()),
            }
        },
        |result| json!({"resultType": "matrix", "result": result}),
    );
    let warnings = if mode == Mode::Warns {
        json!(["a store is away"])
    } else {
        json!([])
    };
    let mut body = json!({"status": "success", "data": data, "warnings": warnings}).to_string();
    if mode == Mode::Truncated {
        body.truncate(body.len() / 2);
    }
    (StatusCode::OK, body)
}
