//! Evidence by endpoint, for objectives whose series have a label with the endpoint.

use std::collections::{BTreeMap, BTreeSet};

use serin_analysis::counters::CounterConfig;
use serin_analysis::objective::RoundContext;
use serin_analysis::strata::{Strata, StrataState, StrataTerms};
use serin_analysis::{CounterKind, Objective, ObjectiveState, PodId, Sample, SampleBatch};
use serin_core::text::Text;
use serin_crds::analysis::ObjectiveSpec;

use crate::counter_selectors::CounterSelectors;
use crate::prometheus::{Answer, Labels};
use crate::sample_reader::{series_key, source_key};

/// Maximum length of the name of an endpoint, in bytes. A longer label value is cut.
const ENDPOINT_BYTES: usize = 128;

/// The strata of one objective.
#[derive(Debug)]
pub(crate) struct ObjectiveEndpoints {
    /// The label with the endpoint.
    label: String,
    strata: Strata,
}

impl ObjectiveEndpoints {
    /// Creates the strata of a spec and continues from the stored ones. `None` if the spec names no
    /// label.
    pub(crate) fn new(
        spec: &ObjectiveSpec,
        counters: CounterConfig,
        state: &mut ObjectiveState,
    ) -> Option<Self> {
        let Some(label) = spec.endpoint_label.clone() else {
            state.strata = None;
            return None;
        };
        let stored = state.strata.get_or_insert_with(StrataState::default);
        let strata = Strata::resume(counters, state.evidence.began_ms, stored);
        Some(Self { label, strata })
    }

    /// Sets the scrape interval for subsequent observations.
    pub(crate) fn set_counters(&mut self, counters: CounterConfig) {
        self.strata.set_counters(counters);
    }

    /// Adds the samples of the answers to the queries of all and of bad (or good) requests. Call it
    /// before they are added to the objective, so that the bets only depend on earlier samples.
    pub(crate) fn observe(
        &mut self,
        (objective, state): (&Objective, &mut ObjectiveState),
        counters: &CounterSelectors,
        answers: [&Answer; 2],
        feed: &SampleBatch<'_>,
        context: &RoundContext,
    ) {
        let bets = objective.bets();
        let k = state.evidence.rollback_k(bets.config());
        let excluded: BTreeSet<u64> = state.pods.excluded_ids().collect();
        let Some(strata) = &mut state.strata else {
            return;
        };
        if !strata.is_set() {
            let requests = self.requests_by_endpoint(counters, answers[0]);
            self.strata
                .set_endpoints(strata, &requests, state.round_at_ms, bets);
        }
        if !strata.is_set() {
            return;
        }
        let endpoints = self.endpoints_of_series(counters, answers, strata);
        let mut samples: Vec<Vec<Sample<'_>>> = vec![Vec::new(); strata.len()];
        let stratum_of = |sample: &Sample<'_>| {
            let key = (sample.source.to_owned(), sample.series.to_owned());
            let pod = PodId::from_name(sample.source).or_position(0);
            endpoints
                .get(&key)
                .copied()
                .filter(|_| !excluded.contains(&pod))
        };
        // The samples of a series follow each other.
        let is_same_series = |one: &Sample<'_>, other: &Sample<'_>| {
            one.source == other.source && one.series == other.series
        };
        for of_series in feed.samples.chunk_by(is_same_series) {
            let index = of_series.first().and_then(stratum_of);
            if let Some(of_stratum) = index.and_then(|index| samples.get_mut(index)) {
                of_stratum.extend_from_slice(of_series);
            }
        }
        let batches: Vec<SampleBatch<'_>> = samples
            .iter()
            .map(|samples| SampleBatch { samples, ..*feed })
            .collect();
        let terms = StrataTerms { k, context };
        self.strata.observe(strata, bets, &batches, &terms);
    }

    fn endpoint(&self, labels: &Labels) -> String {
        let value = labels.get(&self.label).map_or("", String::as_str);
        String::from(Text::<ENDPOINT_BYTES>::from(value))
    }

    /// The latest counter values of all requests of both sides, by endpoint.
    fn requests_by_endpoint(
        &self,
        counters: &CounterSelectors,
        total: &Answer,
    ) -> BTreeMap<String, f64> {
        let mut requests: BTreeMap<String, f64> = BTreeMap::new();
        for series in total {
            let counts = counters.counts_as(CounterKind::Total, &series.labels)
                && counters.arm(&series.labels).is_some();
            if let Some((_, value)) = series.samples.last().filter(|_| counts)
                && value.is_finite()
            {
                *requests.entry(self.endpoint(&series.labels)).or_default() += value;
            }
        }
        requests
    }

    /// The stratum of each series, by its names in the samples.
    fn endpoints_of_series(
        &self,
        counters: &CounterSelectors,
        answers: [&Answer; 2],
        strata: &StrataState,
    ) -> BTreeMap<(String, String), usize> {
        let stratum = |labels: &Labels| {
            let source = source_key(labels, counters.pod(labels));
            let series = series_key(labels, counters.kind());
            ((source, series), strata.index_of(&self.endpoint(labels)))
        };
        let series = answers.into_iter().flatten();
        series.map(|series| stratum(&series.labels)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::request;
    use crate::objective_analysis::ObjectivePlan;
    use crate::prometheus::{Series, Server};
    use crate::release_analysis::{ReleaseAnalysis, settings_for};
    use crate::request::AnalysisRequest;
    use crate::sample_reader::ObjectiveAnswers;

    const BEGAN_MS: i64 = 1_700_000_000_000;

    fn endpoint_request() -> AnalysisRequest {
        let analysis = json!({
            "warmUp": "0s",
            "prometheus": {"scrapeInterval": "15s"},
            "objectives": [{"name": "availability", "objective": 99.9, "endpointLabel": "route",
                "counters": {"total": "http_requests_total",
                    "errors": "http_requests_total{code=~\"5..\"}"}}],
        });
        AnalysisRequest {
            analysis: serde_json::from_value(analysis).unwrap(),
            ..request()
        }
    }

    /// Requests and errors per second of each route, on the canary and on stable.
    const ROUTES: [(&str, f64, [f64; 2]); 3] = [
        ("GET /", 100.0, [0.05, 0.05]),
        ("GET /cart", 20.0, [0.01, 0.01]),
        ("POST /checkout\u{1b}[31m", 1.0, [0.2, 0.0]),
    ];

    fn answers(second: i64) -> [Answer; 2] {
        let mut total = Answer::new();
        for (route, requests, errors) in ROUTES {
            for (pod, errors) in [
                ("checkout-bbb-11111", errors[0]),
                ("checkout-aaa-11111", errors[1]),
            ] {
                for (code, per_second) in [("200", requests), ("500", errors)] {
                    let labels = [
                        ("job", "pods"),
                        ("instance", pod),
                        ("pod", pod),
                        ("route", route),
                        ("code", code),
                    ];
                    #[expect(clippy::cast_precision_loss, reason = "small counts")]
                    let samples = (0..=second)
                        .step_by(15)
                        .map(|at| (BEGAN_MS + at * 1_000, (at as f64 * per_second).floor()))
                        .collect();
                    total.push(Series {
                        labels: labels
                            .map(|(name, value)| (name.to_owned(), value.to_owned()))
                            .into(),
                        samples,
                    });
                }
            }
        }
        let is_error = |series: &&Series| series.labels["code"] == "500";
        let errors = total.iter().filter(is_error).cloned().collect();
        [total, errors]
    }

    #[test]
    fn the_broken_endpoint_is_named_without_control_characters() {
        let request = endpoint_request();
        let settings = settings_for(&request, Server::with_url("http://prometheus")).unwrap();
        let plans = ObjectivePlan::from_request(&request).unwrap();
        let mut release =
            ReleaseAnalysis::begin(settings, plans, &request, None, BEGAN_MS).unwrap();
        let breach = (15..900).step_by(15).find_map(|second| {
            let now_ms = BEGAN_MS + second * 1_000;
            let answers = answers(second);
            let samples = ObjectiveAnswers::from_answers(&answers).unwrap();
            let settled_ms = release.settled_ms(0, samples.total, now_ms);
            release.observe(0, samples, settled_ms, now_ms);
            release.snapshot(now_ms).report.breach
        });
        let message = breach.unwrap().message;
        assert!(message.contains("POST /checkout [31m has "), "{message}");
        assert!(!message.contains('\u{1b}'));
        let state = serde_json::to_string(&release.checkpoint()).unwrap();
        assert!(state.contains("\"strata\""));
    }
}
