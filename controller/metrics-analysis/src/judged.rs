//! One objective of a release at work: what is read of it, its evidence, and what is wrong with it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serin_analysis::judge::Availability;
use serin_analysis::objective::RoundContext;
use serin_analysis::watch::Watch;
use serin_analysis::{Feed, Objective, ObjectiveState, RoundReport};
use serin_crds::analysis::ObjectiveSpec;

use crate::checkpoint::ObjectiveCheckpoint;
use crate::fingerprint::fingerprint_of;
use crate::guarded::{Before, Guarded};
use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, QueryError};
use crate::reading::{NOTHING, Reading, Samples};
use crate::request::JudgeRequest;
use crate::scrape_interval::ScrapeInterval;
use crate::selector::{Counters, Trouble};
use crate::service::Service;
use crate::settings::{Settings, poll_period, timing};
use crate::sums::Sums;
use crate::targets::Targets;

/// How the reading of an objective goes.
#[derive(Clone, Debug)]
pub(crate) struct Failing {
    pub(crate) since_ms: i64,
    pub(crate) error: QueryError,
}

/// One objective at work.
#[derive(Debug)]
pub struct Judged {
    /// As the user wrote it.
    pub spec: ObjectiveSpec,
    /// The series that are read.
    pub counters: Counters,
    /// The statistics.
    pub objective: Objective,
    /// Their state.
    pub state: ObjectiveState,
    /// The whole service, every version.
    pub service: Service,
    pub(crate) watch: Option<Watch>,
    pub(crate) usual_rate: Option<f64>,
    fingerprint: String,
    pub(crate) failing: Option<Failing>,
    /// Where the buckets of a native histogram end, as last read.
    native_edges: Vec<f64>,
    /// Whether nothing is known yet of how errors cluster.
    pub(crate) may_learn: bool,
    /// Where the series are too many to be read one by one: how Prometheus adds them up.
    sums: Option<Sums>,
    pub(crate) guard: Option<Guarded>,
    /// Of several scrapes of one process the one that counts.
    targets: Targets,
    /// Why series cannot be assigned, as last read.
    unclear: Option<String>,
    scrapes: ScrapeInterval,
    /// Whether the spec sets the scrape interval.
    is_configured: bool,
}

/// What is asked of an objective again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The instant queries, in this order.
    pub queries: Vec<String>,
    /// How often.
    pub period: Duration,
    /// How far back they read.
    pub range: Duration,
    /// How much of that must have been read before, since rounds were open then.
    pub open: Duration,
    /// Whether they are of sums, at moments of a grid, and not of scrapes.
    pub is_summed: bool,
}

/// A poll of single series looks back so many scrapes, and at least so long.
const POLL_SCRAPES: u32 = 5;
const POLL_RANGE: Duration = Duration::from_secs(10);

/// What is known of an objective before its evidence begins.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// As the user wrote it.
    pub spec: ObjectiveSpec,
    /// The series that are read.
    pub counters: Counters,
    /// The whole service, every version.
    pub service: Service,
}

impl Prepared {
    /// Reads and checks what the spec says of each objective.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn all(request: &JudgeRequest) -> Result<Vec<Self>, Trouble> {
        let prepare = |spec: &ObjectiveSpec| {
            if !(spec.objective > 0.0 && spec.objective < 100.0) {
                let message = format!(
                    "spec.analysis.objectives[{}].objective {} must be above 0 and below 100",
                    spec.name, spec.objective
                );
                return Err(Trouble::spec(message));
            }
            Ok(Self {
                spec: spec.clone(),
                counters: Counters::new(spec, request)?,
                service: Service::default(),
            })
        };
        request.analysis.objectives.iter().map(prepare).collect()
    }
}

/// Where the buckets of all native histograms in an answer end; nothing where there are none.
fn native_edges(answer: &Answer) -> Vec<f64> {
    let mut edges: BTreeMap<&str, usize> = BTreeMap::new();
    let mut histograms = 0;
    for series in answer {
        match series.labels.get(EDGE_LABEL) {
            Some(edge) => *edges.entry(edge).or_default() += 1,
            // Only of a native histogram the count comes with the buckets.
            None => histograms += 1,
        }
    }
    let of_all = edges
        .into_iter()
        .filter(|(_, series)| histograms > 0 && *series >= histograms);
    of_all.filter_map(|(edge, _)| edge.parse().ok()).collect()
}

/// Tells evidence of one question from evidence of another.
fn fingerprint(settings: &Settings, prepared: &Prepared) -> String {
    let Prepared { spec, counters, .. } = prepared;
    let question = format!(
        "{}|{}|{}|{}|{}",
        spec.objective,
        settings.judge.alpha,
        settings.longest.as_secs(),
        counters.total_of_sides,
        counters.errors_of_sides,
    );
    fingerprint_of(&question)
}

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

/// A question that comes up so much later than its release is one of mid-release.
const LATE_MS: i64 = 120_000;

/// What has counted already learns from what it counts.
fn can_learn(counters: &Counters, state: &ObjectiveState) -> bool {
    counters.tells_pods() && state.evidence.ticks == 0 && state.evidence.phi().is_none()
}

impl Judged {
    pub(crate) fn begin(
        settings: &Settings,
        prepared: Prepared,
        stored: Option<ObjectiveCheckpoint>,
        began_ms: i64,
        now_ms: i64,
    ) -> Result<Self, Trouble> {
        let fingerprint = fingerprint(settings, &prepared);
        let mut prepared = prepared;
        prepared.counters.choose_layout(&prepared.service.layouts);
        if let Some(stored) = stored.filter(|stored| stored.fingerprint == fingerprint) {
            let config = settings.objective(
                &prepared.spec,
                stored.usual_rate,
                prepared.counters.verified,
            );
            match Objective::resume(config, &stored.state) {
                Ok(objective) => return Ok(Self::resume(settings, prepared, objective, stored)),
                Err(error) => {
                    tracing::warn!(objective = %prepared.spec.name, %error, "the stored evidence is gathered anew");
                }
            }
        }
        let Prepared {
            spec,
            counters,
            service,
        } = prepared;
        let usual_rate = service.usual_rate();
        let verified = counters.verified || service.errors_seen;
        let config = settings.objective(&spec, usual_rate, verified);
        // A question that is new in mid-release is answered from now on.
        let began_ms = if now_ms.saturating_sub(began_ms) > LATE_MS {
            now_ms
        } else {
            began_ms
        };
        let (objective, state) = Objective::begin(config, began_ms).map_err(|error| {
            Trouble::spec(format!("spec.analysis.objectives[{}]: {error}", spec.name))
        })?;
        Ok(Self {
            guard: Guarded::new(&spec, objective.config(), began_ms, None),
            may_learn: can_learn(&counters, &state),
            spec,
            counters,
            objective,
            state,
            service,
            watch: None,
            usual_rate,
            fingerprint,
            failing: None,
            native_edges: Vec::new(),
            sums: None,
            targets: Targets::default(),
            unclear: None,
            scrapes: ScrapeInterval::new(settings.scrape_interval_ms(), None),
            is_configured: settings.scrape_interval_is_set,
        })
    }

    fn resume(
        settings: &Settings,
        prepared: Prepared,
        objective: Objective,
        stored: ObjectiveCheckpoint,
    ) -> Self {
        let Prepared {
            spec,
            counters,
            service,
        } = prepared;
        let ObjectiveCheckpoint {
            fingerprint,
            usual_rate,
            state,
            watch,
            summed,
            scrape_interval_ms,
            guard,
        } = stored;
        let mut judged = Self {
            guard: Guarded::new(&spec, objective.config(), state.evidence.began_ms, guard),
            may_learn: can_learn(&counters, &state),
            watch: watch.filter(|watch| watch.fits(objective.bets())),
            spec,
            counters,
            objective,
            state,
            service,
            usual_rate,
            fingerprint,
            failing: None,
            native_edges: Vec::new(),
            sums: None,
            targets: Targets::default(),
            unclear: None,
            scrapes: ScrapeInterval::new(settings.scrape_interval_ms(), scrape_interval_ms),
            is_configured: settings.scrape_interval_is_set,
        };
        judged.apply_scrape_interval();
        if summed {
            judged.sum_up();
        }
        judged
    }

    pub(crate) fn checkpoint(&self) -> ObjectiveCheckpoint {
        ObjectiveCheckpoint {
            fingerprint: self.fingerprint.clone(),
            usual_rate: self.usual_rate,
            state: self.state.clone(),
            watch: self.watch.clone(),
            summed: self.sums.is_some(),
            scrape_interval_ms: self.scrapes.to_store(),
            guard: self.guard.as_ref().map(|guard| guard.state.clone()),
        }
    }

    /// How Prometheus adds the series up, where they are too many to be read one by one.
    pub(crate) fn sums(&self) -> Option<Sums> {
        self.sums
    }

    /// The scrape interval: learned, else configured.
    pub(crate) fn scrape_interval_ms(&self) -> i64 {
        self.scrapes.interval_ms()
    }

    /// Learns the scrape interval from an answer, before its samples become rounds.
    fn learn_scrape_interval<'a>(
        &mut self,
        scrapes: impl Iterator<Item = (&'a str, i64)>,
        now_ms: i64,
    ) {
        if self.scrapes.observe(scrapes, now_ms) {
            self.apply_scrape_interval();
        }
    }

    fn apply_scrape_interval(&mut self) {
        let timing = timing(self.scrapes.interval_ms(), self.scrapes.patient_ms());
        self.objective.set_timing(timing);
        if let Some(guard) = &mut self.guard {
            guard.set_counters(timing.counters);
        }
        if self.sums.take().is_some() {
            self.sum_up();
        }
    }

    /// From now on Prometheus adds the series up; false where it does so already, and what it
    /// answers is too large all the same.
    pub(crate) fn sum_up(&mut self) -> bool {
        if self.sums.is_some() {
            return false;
        }
        let sums = Sums::new(self.objective.config().counters);
        self.objective.allow_for_delay(sums.delay_ms());
        self.sums = Some(sums);
        true
    }

    /// What is asked of it again and again.
    pub(crate) fn polled(&self) -> Polled {
        let scrapes = duration(self.scrapes.interval_ms());
        if let Some(sums) = self.sums {
            let range = duration(sums.poll_ms());
            let queries = sums.queries(&self.counters, sums.poll_ms());
            let open = duration(sums.delay_ms()) + scrapes;
            let period = scrapes.max(poll_period(scrapes));
            return Polled {
                queries,
                period,
                range,
                open,
                is_summed: true,
            };
        }
        // Whole seconds, so that equal settings ask the equal question.
        let range = (scrapes * POLL_SCRAPES).max(POLL_RANGE);
        let range = Duration::from_secs(range.as_secs() + u64::from(range.subsec_nanos() > 0));
        let queries = self
            .counters
            .selectors()
            .map(|selector| format!("{selector}[{}s]", range.as_secs()))
            .collect();
        Polled {
            queries,
            period: poll_period(scrapes),
            range,
            open: scrapes * 2,
            is_summed: false,
        }
    }

    /// What people should know of how it is read.
    pub(crate) fn told_of_reading(&self) -> Option<String> {
        let summed = self.sums.map(|sums| {
            let late = duration(sums.delay_ms()).as_secs();
            format!(
                "Its series are too many to be read one by one: Prometheus adds up what each scrape target counted, which is known up to {late} s later."
            )
        });
        let sentences: Vec<String> = summed
            .into_iter()
            .chain(self.scrape_interval_mismatch())
            .collect();
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }

    /// That the samples arrive at another interval than the spec says, as a sentence.
    pub(crate) fn scrape_interval_mismatch(&self) -> Option<String> {
        self.scrapes.mismatch(self.is_configured)
    }

    /// Takes in the samples of single series.
    pub(crate) fn observe(
        &mut self,
        Samples {
            total,
            second,
            buckets,
        }: Samples<'_>,
        births: (&BTreeMap<String, Timestamp>, i64),
        (settled_ms, now_ms): (i64, i64),
        context: &RoundContext,
    ) {
        self.native_edges = native_edges(second);
        self.failing = None;
        // Of some series the requests within could be counted, of others not: what is left would be
        // the fast ones.
        if self.no_such_edge().is_some() {
            return;
        }
        let Some([total, second, buckets]) = self.counted([total, second, buckets]) else {
            return;
        };
        let (total, second, buckets): (&Answer, &Answer, &Answer) = (&total, &second, &buckets);
        let (pods_created_at, began_ms) = births;
        let known = self.targets.without_changed(pods_created_at);
        let pods_created_at: &BTreeMap<String, Timestamp> = &known;
        let births = (pods_created_at, began_ms);
        let reading = Reading::new(&self.counters, total, second, pods_created_at, began_ms);
        let samples = reading.samples();
        self.learn_scrape_interval(
            samples.iter().map(|sample| (sample.source, sample.at_ms)),
            now_ms,
        );
        let feed = Feed {
            samples: &samples,
            births: &reading.births,
            settled_ms,
            now_ms,
        };
        let before = self.before();
        if let Some(guard) = &mut self.guard {
            guard.observe(
                &self.counters,
                [total, buckets],
                births,
                (settled_ms, now_ms),
                (before, context),
            );
        }
        let report = self.objective.observe(&mut self.state, &feed, context);
        self.note(&report);
    }

    /// Takes in the answers to the queries of sums.
    pub(crate) fn observe_sums(&mut self, answers: &[Answer], now_ms: i64, context: &RoundContext) {
        self.failing = None;
        if self.no_such_edge().is_some() {
            return;
        }
        let (Some(sums), [total, second, scraped, buckets @ ..]) = (self.sums, answers) else {
            return;
        };
        let all_buckets = buckets.first().unwrap_or(NOTHING);
        let Some([total, second, scraped, all_buckets]) =
            self.counted([total, second, scraped, all_buckets])
        else {
            return;
        };
        let (total, second, scraped): (&Answer, &Answer, &Answer) = (&total, &second, &scraped);
        let before = self.before();
        if let (Some(guard), [_]) = (&mut self.guard, buckets) {
            guard.observe_sums(
                &self.counters,
                sums,
                [total, &all_buckets],
                (before, context),
            );
        }
        let rounds = sums.rounds(&self.counters, [total, second, scraped]);
        let report = self
            .objective
            .observe_rounds(&mut self.state, rounds, context);
        self.note(&report);
        // Last, since these answers are on the grid that they were asked for.
        let times = Sums::scrapes(&self.counters, scraped);
        self.learn_scrape_interval(
            times
                .iter()
                .map(|(target, at_ms)| (target.as_str(), *at_ms)),
            now_ms,
        );
    }

    /// The answers, of which each process's series are there once; nothing if some of them cannot
    /// be assigned.
    fn counted<'a, const N: usize>(
        &mut self,
        answers: [&'a Answer; N],
    ) -> Option<[Cow<'a, Answer>; N]> {
        let counted = self.targets.select(&self.counters, answers);
        self.unclear = counted.as_ref().err().cloned();
        counted.ok()
    }

    /// Takes in what is known of the service as a whole.
    pub(crate) fn set_service(&mut self, service: Service) {
        // What history has shown once stays shown.
        self.state.selector_verified |= service.errors_seen;
        self.counters.choose_layout(&service.layouts);
        self.service = service;
    }

    fn before(&self) -> Before {
        let k = self.state.evidence.k(&self.objective.config().evidence);
        Before {
            round_at_ms: self.state.round_at_ms,
            k,
        }
    }

    fn note(&mut self, report: &RoundReport) {
        if let Some(watch) = &mut self.watch {
            report
                .ticks
                .iter()
                .for_each(|tick| watch.add(&self.objective.config().evidence, tick));
        }
        if report.from_the_future > 0 {
            tracing::debug!(objective = %self.spec.name, samples = report.from_the_future, "samples from the future are left out");
        }
    }

    /// That nothing counts what is slower than the threshold, once it is known which buckets there
    /// are.
    fn no_such_edge(&self) -> Option<Trouble> {
        let histogram = self.counters.histogram.as_ref()?;
        let edges = [self.service.edges.as_slice(), &self.native_edges].concat();
        let message = histogram
            .check(&edges)
            .err()
            .filter(|_| !edges.is_empty())?;
        Some(Trouble::no_such_edge(&self.spec.name, &message))
    }

    pub(crate) fn trouble(&self, grace_ms: i64, now_ms: i64) -> Option<Trouble> {
        if let Some(trouble) = self.no_such_edge() {
            return Some(trouble);
        }
        if let Some(why) = &self.unclear {
            return Some(Trouble::unclear(&self.spec.name, why));
        }
        let failing = self.failing.as_ref()?;
        if let (Some(_), QueryError::TooLarge(size)) = (self.sums, &failing.error) {
            return Some(Trouble::too_large(&self.spec.name, size));
        }
        let is_told =
            !failing.error.concerns_server() || now_ms.saturating_sub(failing.since_ms) >= grace_ms;
        is_told.then(|| Trouble::of_query(&self.spec.name, &failing.error))
    }

    pub(crate) fn availability(&self, grace_ms: i64, now_ms: i64) -> Availability {
        if self.no_such_edge().is_some() || self.unclear.is_some() {
            return Availability::Unreachable {
                since_ms: self.state.evidence.began_ms,
            };
        }
        match &self.failing {
            Some(failing) if self.trouble(grace_ms, now_ms).is_some() => match failing.error {
                QueryError::Partial(_) => Availability::Partial {
                    since_ms: failing.since_ms,
                },
                _ => Availability::Unreachable {
                    since_ms: failing.since_ms,
                },
            },
            _ => Availability::Ok,
        }
    }

    /// What this release may spend of the objective's budget, in errors, where that is known.
    pub(crate) fn allotment(&self, settings: &Settings) -> Option<f64> {
        let budget_fraction = self.objective.config().evidence.budget_fraction;
        self.service
            .budget(budget_fraction)
            .map(|budget| budget.allotment(&settings.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prometheus::Series;

    #[test]
    fn an_edge_is_one_where_all_native_histograms_have_it() {
        let series = |pod: &str, le: Option<&str>| {
            let labels = [("pod", Some(pod)), ("le", le)];
            let labels = labels
                .iter()
                .filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
            Series {
                labels: labels.collect(),
                samples: vec![(0, 1.0)],
            }
        };
        let classic = || vec![series("a", Some("0.3")), series("b", Some("0.3"))];
        assert!(
            native_edges(&classic()).is_empty(),
            "of a classic one only the threshold's bucket is read"
        );
        let mut native = vec![
            series("a", None),
            series("a", Some("0.25")),
            series("a", Some("0.5")),
            series("b", None),
        ];
        native.push(series("b", Some("0.25")));
        assert_eq!(
            native_edges(&native),
            [0.25],
            "0.5 is inside of a bucket of b"
        );
        native.extend(classic());
        assert_eq!(
            native_edges(&native),
            [0.25, 0.3],
            "both forms are there, and 0.3 is counted by the classic one"
        );
    }
}
