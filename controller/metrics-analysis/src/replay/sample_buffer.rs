//! Buffer of the recorded samples of one objective.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_analysis::Arm;

use crate::counter_selectors::CounterSelectors;
use crate::prometheus::{Answer, Labels, Series};

type Samples = Vec<(i64, f64)>;

/// Samples by series, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct SampleBuffer {
    total: BTreeMap<Labels, Samples>,
    /// Series other than the total: the bad or good requests, and all buckets if a guard compares
    /// them.
    others: Vec<BTreeMap<Labels, Samples>>,
    /// Time at which each pod was first seen, and whether that was at the start of the data.
    first_seen: BTreeMap<String, (i64, bool)>,
    begins_ms: Option<i64>,
}

impl SampleBuffer {
    /// Appends the samples of a slice. Known samples are skipped.
    pub(super) fn append(
        &mut self,
        counters: &CounterSelectors,
        answers: Vec<Answer>,
        interval_ms: i64,
    ) {
        let mut answers = answers.into_iter();
        let total = answers.next().unwrap_or_default();
        let oldest_ms = total
            .iter()
            .filter_map(|series| series.samples.first())
            .map(|(at_ms, _)| *at_ms)
            .min();
        self.begins_ms = self.begins_ms.or(oldest_ms);
        let begins_ms = self.begins_ms.unwrap_or(i64::MIN);
        for series in &total {
            let (Some(pod), Some((at_ms, _))) =
                (counters.pod(&series.labels), series.samples.first())
            else {
                continue;
            };
            let is_at_beginning = at_ms.saturating_sub(begins_ms) <= interval_ms.saturating_mul(2);
            self.first_seen
                .entry(pod.to_owned())
                .or_insert((*at_ms, is_at_beginning));
        }
        append(&mut self.total, total);
        let others: Vec<Answer> = answers.collect();
        self.others.resize_with(others.len(), BTreeMap::new);
        self.others
            .iter_mut()
            .zip(others)
            .for_each(|(known, read)| append(known, read));
    }

    /// Drops older samples, except for the last one of each series: a series that returns after a
    /// gap is not new.
    pub(super) fn forget_before(&mut self, before_ms: i64) {
        for samples in self
            .total
            .values_mut()
            .chain(self.others.iter_mut().flat_map(BTreeMap::values_mut))
        {
            let older = samples.partition_point(|(at_ms, _)| *at_ms < before_ms);
            samples.drain(..older.saturating_sub(1));
        }
    }

    /// The result of a range query, without the start and with the end.
    pub(super) fn slice(&self, from_ms: i64, to_ms: i64) -> Vec<Answer> {
        let all = std::iter::once(&self.total).chain(&self.others);
        all.map(|known| slice_series(known, from_ms, to_ms))
            .collect()
    }

    /// Latest possible creation time of each pod: one scrape before it was first seen. Pods that
    /// existed at the start of the data are excluded, because their age is unknown.
    pub(super) fn creation_times(&self, interval_ms: i64) -> BTreeMap<String, Timestamp> {
        let appeared = self
            .first_seen
            .iter()
            .filter(|(_, (_, is_at_beginning))| !is_at_beginning);
        appeared
            .filter_map(|(pod, (at_ms, _))| {
                let created_at =
                    Timestamp::from_millisecond(at_ms.saturating_sub(interval_ms)).ok()?;
                Some((pod.clone(), created_at))
            })
            .collect()
    }

    /// The pods of one side, whenever they were scraped.
    pub(super) fn pods_of_side<'a>(
        &'a self,
        counters: &'a CounterSelectors,
        side: Arm,
    ) -> impl Iterator<Item = &'a str> {
        let of_side = self
            .total
            .keys()
            .filter(move |labels| counters.arm(labels) == Some(side));
        of_side.filter_map(|labels| counters.pod(labels))
    }

    /// Pods that were scraped after `from_ms` and until `to_ms`.
    pub(super) fn pods<'a>(
        &'a self,
        counters: &'a CounterSelectors,
        from_ms: i64,
        to_ms: i64,
    ) -> impl Iterator<Item = String> + 'a {
        let scraped = move |samples: &Samples| {
            let next = samples.partition_point(|(at_ms, _)| *at_ms <= from_ms);
            samples.get(next).is_some_and(|(at_ms, _)| *at_ms <= to_ms)
        };
        let scraped_series = self
            .total
            .iter()
            .filter(move |(_, samples)| scraped(samples));
        scraped_series.filter_map(|(labels, _)| counters.pod(labels).map(ToOwned::to_owned))
    }

    /// First scrape after `after_ms` and until `until_ms` that shows a request to the canary.
    pub(super) fn first_canary_request(
        &self,
        counters: &CounterSelectors,
        after_ms: i64,
        until_ms: i64,
    ) -> Option<i64> {
        let canary = self
            .total
            .iter()
            .filter(|(labels, _)| counters.arm(labels) == Some(Arm::Canary));
        canary
            .filter_map(|(_, samples)| {
                let has_appeared = samples
                    .first()
                    .is_some_and(|(at_ms, _)| Some(*at_ms) > self.begins_ms);
                let first = samples
                    .first()
                    .filter(|(_, value)| has_appeared && *value > 0.0);
                let rises = samples
                    .windows(2)
                    .filter(|pair| has_increased(pair[0].1, pair[1].1))
                    .map(|pair| &pair[1]);
                let mut times = first.into_iter().chain(rises).map(|(at_ms, _)| *at_ms);
                times.find(|at_ms| *at_ms > after_ms && *at_ms <= until_ms)
            })
            .min()
    }
}

/// Whether a counter has increased or was reset.
fn has_increased(before: f64, value: f64) -> bool {
    value > before || (value < before && value > 0.0)
}

fn append(known: &mut BTreeMap<Labels, Samples>, read: Answer) {
    for series in read {
        let samples = known.entry(series.labels).or_default();
        let newest_ms = samples.last().map_or(i64::MIN, |(at_ms, _)| *at_ms);
        samples.extend(
            series
                .samples
                .into_iter()
                .filter(|(at_ms, _)| *at_ms > newest_ms),
        );
    }
}

fn slice_series(known: &BTreeMap<Labels, Samples>, from_ms: i64, to_ms: i64) -> Answer {
    let slice = |(labels, samples): (&Labels, &Samples)| {
        let first = samples.partition_point(|(at_ms, _)| *at_ms <= from_ms);
        let end = samples.partition_point(|(at_ms, _)| *at_ms <= to_ms);
        let samples = samples
            .get(first..end)
            .filter(|samples| !samples.is_empty())?;
        Some(Series {
            labels: labels.clone(),
            samples: samples.to_vec(),
        })
    };
    known.iter().filter_map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::request;

    const CANARY: &str = "shop-checkout-canary-80@kubernetesgateway";

    fn counters() -> CounterSelectors {
        let objective =
            serde_json::json!({"name": "availability", "objective": 99.9, "indicator": "traefik"});
        CounterSelectors::new(&serde_json::from_value(objective).unwrap(), &request()).unwrap()
    }

    fn series(service: &str, samples: &[(i64, f64)]) -> Series {
        let labels = [
            ("__name__", "traefik_service_requests_total"),
            ("service", service),
        ];
        let labels = labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        Series {
            labels,
            samples: samples.to_vec(),
        }
    }

    fn buffer(canary: &[(i64, f64)]) -> SampleBuffer {
        let mut buffer = SampleBuffer::default();
        let stable = series(
            "shop-checkout-80@kubernetesgateway",
            &[(1_000, 5.0), (5_000, 9.0)],
        );
        buffer.append(
            &counters(),
            vec![vec![stable, series(CANARY, canary)], Vec::new()],
            1_000,
        );
        buffer
    }

    #[test]
    fn the_first_request_is_the_first_increase_of_the_canary() {
        let first =
            |canary: &[(i64, f64)]| buffer(canary).first_canary_request(&counters(), 1_500, 10_000);
        assert_eq!(
            first(&[(1_000, 7.0), (2_000, 7.0), (3_000, 8.0)]),
            Some(3_000)
        );
        assert_eq!(
            first(&[(1_000, 7.0), (2_000, 7.0)]),
            None,
            "earlier requests do not count"
        );
        assert_eq!(first(&[(2_000, 0.0), (3_000, 0.0)]), None);
        assert_eq!(
            first(&[(2_000, 4.0)]),
            Some(2_000),
            "a series that appears has counted"
        );
        assert_eq!(
            first(&[(1_000, 7.0), (2_000, 2.0)]),
            Some(2_000),
            "so has one that was reset"
        );
        assert_eq!(first(&[(1_000, 7.0), (11_000, 8.0)]), None, "not yet");
    }

    #[test]
    fn repeated_samples_are_kept_once_and_a_returning_series_is_not_new() {
        let mut buffer = buffer(&[(1_000, 7.0), (2_000, 8.0)]);
        buffer.append(
            &counters(),
            vec![
                vec![series(CANARY, &[(2_000, 8.0), (3_000, 8.0)])],
                Vec::new(),
            ],
            1_000,
        );
        let [total, errors]: [Answer; 2] = buffer.slice(1_000, 3_000).try_into().unwrap();
        let canary = total
            .iter()
            .find(|series| series.labels["service"] == CANARY)
            .unwrap();
        assert_eq!(
            canary.samples,
            [(2_000, 8.0), (3_000, 8.0)],
            "without the beginning, with the end"
        );
        assert!(errors.is_empty());
        buffer.forget_before(900_000);
        buffer.append(
            &counters(),
            vec![vec![series(CANARY, &[(950_000, 8.0)])], Vec::new()],
            1_000,
        );
        assert_eq!(
            buffer.first_canary_request(&counters(), 3_000, 1_000_000),
            None
        );
    }
}
