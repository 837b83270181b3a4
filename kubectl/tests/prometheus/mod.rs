//! An in-memory Prometheus: evaluates range selectors over its samples and answers composed queries
//! with given numbers.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use promql_parser::parser::{self, Expr};
use serde_json::{Value, json};
use serin_metrics_analysis::prometheus::{Labels, Series};

/// Content of the server.
#[derive(Debug, Default)]
pub struct Record {
    /// The series.
    pub series: Vec<Series>,
    /// Values of the service as a whole, by the names of the composed queries.
    pub service: Vec<(&'static str, f64)>,
    /// Returns this error for each query.
    pub refuses: Option<&'static str>,
}

/// Serves the record and returns its address.
pub async fn serve(record: Record) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/api/v1/query", post(answer))
        .with_state(Arc::new(record));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn answer(State(record): State<Arc<Record>>, body: String) -> (StatusCode, String) {
    if let Some(why) = record.refuses {
        let body = json!({"status": "error", "errorType": "internal", "error": why});
        return (StatusCode::SERVICE_UNAVAILABLE, body.to_string());
    }
    let uri: Uri = format!("http://prometheus/?{body}").parse().unwrap();
    let Query(form) = Query::<HashMap<String, String>>::try_from_uri(&uri).unwrap();
    let (seconds, millis) = form["time"].split_once('.').unwrap();
    let at_ms = seconds.parse::<i64>().unwrap() * 1_000 + millis.parse::<i64>().unwrap();
    let data = matrix(&record, &form["query"], at_ms).unwrap_or_else(|| {
        let number = |(name, value): &(&str, f64)| json!({"metric": {"serin": name}, "value": [1, value.to_string()]});
        json!({"resultType": "vector", "result": record.service.iter().map(number).collect::<Vec<_>>()})
    });
    (
        StatusCode::OK,
        json!({"status": "success", "data": data}).to_string(),
    )
}

fn matrix(record: &Record, query: &str, at_ms: i64) -> Option<Value> {
    // All values are equal, so the maximum per pod is the last sample.
    let by_pod = query
        .strip_prefix("max by (pod) (max_over_time(")
        .and_then(|query| query.strip_suffix("))"));
    if let Some(selector) = by_pod {
        let mut answer = matrix(record, selector, at_ms)?;
        for series in answer["result"].as_array_mut()? {
            let value = series["values"].as_array_mut()?.pop()?;
            *series = json!({"metric": {"pod": series["metric"]["pod"]}, "value": value});
        }
        answer["resultType"] = "vector".into();
        return Some(answer);
    }
    // Composed queries are long and not range selectors.
    let Ok(Expr::MatrixSelector(matrix)) = parser::parse(query.ends_with(']').then_some(query)?)
    else {
        return None;
    };
    let from_ms = at_ms - i64::try_from(matrix.range.as_millis()).unwrap();
    let (name, matchers) = (matrix.vs.name.unwrap(), matrix.vs.matchers.matchers);
    let value_of = |labels: &Labels, label: &str| labels.get(label).cloned().unwrap_or_default();
    let selected = record.series.iter().filter(|series| {
        series.labels["__name__"] == name
            && matchers
                .iter()
                .all(|matcher| matcher.is_match(&value_of(&series.labels, &matcher.name)))
    });
    let found = selected.filter_map(|series| {
        let samples = series
            .samples
            .iter()
            .filter(|(sample_ms, _)| (from_ms + 1..=at_ms).contains(sample_ms));
        let values: Vec<Value> = samples
            .map(|(sample_ms, value)| {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of today")]
                let seconds = *sample_ms as f64 / 1_000.0;
                json!([seconds, value.to_string()])
            })
            .collect();
        (!values.is_empty()).then(|| json!({"metric": series.labels, "values": values}))
    });
    Some(json!({"resultType": "matrix", "result": found.collect::<Vec<_>>()}))
}
