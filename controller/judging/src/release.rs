//! One release under judgement, without IO: answers in, the state of the evidence out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_analysis::judge::Availability;
use serin_analysis::objective::RoundContext;
use serin_analysis::watch::Watch;
use serin_analysis::{Feed, Objective, ObjectiveState};
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::ObjectiveSpec;

use crate::checkpoint::{Checkpoint, Decided, ObjectiveCheckpoint, fingerprint_of};
use crate::checks::{Checks, Position};
use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, QueryError, Server};
use crate::reading::Reading;
use crate::request::{JudgeRequest, Phase};
use crate::selector::{Counters, Trouble};
use crate::service::Service;
use crate::settings::{Settings, millis};

/// For how long a server in trouble may be silent before that is told: two scrapes, within bounds. Until then the data in hand
/// is as fresh as it would be anyway.
const GRACE_BOUNDS_MS: (i64, i64) = (2_000, 30_000);

/// How the reading of an objective goes.
#[derive(Clone, Debug)]
struct Failing {
    since_ms: i64,
    error: QueryError,
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
    usual_rate: Option<f64>,
    fingerprint: String,
    failing: Option<Failing>,
    /// Where the buckets of a native histogram end, as last read.
    native_edges: Vec<f64>,
    /// Whether nothing is known yet of how errors cluster.
    may_learn: bool,
}

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

/// One release under judgement.
#[derive(Debug)]
pub struct Release {
    /// What all objectives share.
    pub settings: Settings,
    /// The objectives, in the spec's order.
    pub objectives: Vec<Judged>,
    /// The checks, in the spec's order.
    pub checks: Checks,
    pub(crate) revision: Revision,
    pub(crate) weight: Weight,
    pub(crate) weight_changed_at_ms: i64,
    pub(crate) began_ms: i64,
    pub(crate) fresh_since_ms: Option<i64>,
    pub(crate) decided: Option<Decided>,
    /// Whether steps set the pace, so that any weight can be the last one before promotion.
    pub(crate) by_steps: bool,
    /// How far the release has come, and since when, in milliseconds since the epoch.
    pub(crate) phase: (Phase, i64),
    /// What was asked for last: evidence can have led on since.
    requested_phase: Phase,
    /// Where the evidence must suffice before the release goes on.
    pub(crate) proven_at: Option<Weight>,
    /// Whether a person has lifted the freeze.
    pub(crate) freeze_lifted: bool,
    warm_up_ends_ms: i64,
    pods_created_at: BTreeMap<String, Timestamp>,
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
            Ok(Self { spec: spec.clone(), counters: Counters::new(spec, request)?, service: Service::default() })
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
    let of_all = edges.into_iter().filter(|(_, series)| histograms > 0 && *series >= histograms);
    of_all.filter_map(|(edge, _)| edge.parse().ok()).collect()
}

/// The settings that a request asks for; `server` is asked.
///
/// # Errors
/// The field that cannot be read.
pub fn settings_of(request: &JudgeRequest, server: Server) -> Result<Settings, Trouble> {
    Settings::new(&request.analysis, request.pace.as_ref(), server)
}

/// Tells evidence of one question from evidence of another.
fn fingerprint(settings: &Settings, prepared: &Prepared) -> String {
    let Prepared { spec, counters, .. } = prepared;
    let question = format!(
        "{}|{}|{}|{}|{}|{}",
        spec.objective,
        settings.judge.alpha,
        settings.scrape_interval_ms(),
        settings.longest.as_secs(),
        counters.total_of_sides,
        counters.errors_of_sides,
    );
    fingerprint_of(&question)
}

impl Release {
    /// Begins, or goes on from the checkpoint where its evidence answers the same question.
    ///
    /// # Errors
    /// The objective that cannot be judged as it is written.
    pub fn begin(
        settings: Settings,
        prepared: Vec<Prepared>,
        request: &JudgeRequest,
        checkpoint: Option<Checkpoint>,
        now_ms: i64,
    ) -> Result<Self, Trouble> {
        let checkpoint = checkpoint.unwrap_or_else(|| fresh(&settings, request, now_ms));
        let began_ms = checkpoint.began_ms;
        let mut stored = checkpoint.objectives;
        let mut objectives = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            let stored = stored.remove(&prepared.spec.name);
            objectives.push(Judged::begin(&settings, prepared, stored, began_ms, now_ms)?);
        }
        let checks = Checks::new(request, checkpoint.checks)?;
        let phase = checkpoint.phase.unwrap_or((request.phase, now_ms));
        let mut release = Self {
            settings,
            checks,
            phase,
            requested_phase: phase.0,
            revision: request.revision.clone(),
            objectives,
            weight: Weight::from_thousandths(checkpoint.weight_thousandths),
            weight_changed_at_ms: checkpoint.weight_changed_at_ms,
            began_ms,
            fresh_since_ms: checkpoint.fresh_since_ms,
            decided: checkpoint.decided,
            by_steps: request.pace.is_none(),
            proven_at: request.proven_at,
            freeze_lifted: request.freeze_lifted,
            warm_up_ends_ms: checkpoint.warm_up_ends_ms,
            pods_created_at: BTreeMap::new(),
        };
        release.take_in(request, now_ms);
        Ok(release)
    }

    /// Takes in what a reconcile has seen since.
    pub fn take_in(&mut self, request: &JudgeRequest, now_ms: i64) {
        if self.weight != request.weight {
            self.weight = request.weight;
            self.weight_changed_at_ms = now_ms;
        }
        if self.requested_phase != request.phase {
            self.requested_phase = request.phase;
            self.enter(request.phase, now_ms);
        }
        self.proven_at = request.proven_at;
        self.freeze_lifted = request.freeze_lifted;
        self.pods_created_at.clone_from(&request.pods_created_at);
    }

    pub(crate) fn enter(&mut self, phase: Phase, now_ms: i64) {
        self.phase = (phase, now_ms);
        for judged in &mut self.objectives {
            judged.watch = (phase == Phase::AfterPromotion)
                .then(|| {
                    let (bets, evidence) = (judged.objective.bets(), &judged.state.evidence);
                    let usual_rate = judged.usual_rate.or_else(|| judged.service.usual_rate());
                    Watch::begin(bets, evidence, usual_rate, now_ms, self.settings.watch.as_secs_f64())
                })
                .flatten();
        }
    }

    /// Where the release stands, for its checks.
    pub(crate) fn position(&self, now_ms: i64) -> Position {
        Position {
            phase: self.phase.0,
            phase_since_ms: self.phase.1,
            weight_changed_at_ms: self.weight_changed_at_ms,
            has_traffic: !self.weight.is_zero(),
            grace_ms: self.grace_ms(),
            now_ms,
        }
    }

    /// Whether a check is to be asked now.
    pub fn asks(&self, check: usize, now_ms: i64) -> bool {
        self.checks.is_asked(check, &self.position(now_ms))
    }

    /// Takes in what a check that was asked at `asked_ms` has found.
    pub fn observe_check(&mut self, check: usize, found: &Result<Vec<Answer>, QueryError>, asked_ms: i64, now_ms: i64) {
        let position = self.position(now_ms);
        self.checks.observe(check, found, asked_ms, &position);
    }

    /// Whether an objective has gathered nothing yet and could learn from before the release how stable's errors cluster.
    pub(crate) fn may_learn(&self, index: usize) -> bool {
        self.objectives.get(index).is_some_and(|judged| judged.may_learn)
    }

    /// Learns how stable's errors cluster from the answers about the time from `from_ms` on until the release began.
    pub(crate) fn learn(&mut self, index: usize, total: &Answer, errors: &Answer, from_ms: i64) {
        let Some(judged) = self.objectives.get_mut(index) else { return };
        let reading = Reading::new(&judged.counters, total, errors, &self.pods_created_at, self.began_ms);
        let samples = reading.samples();
        let history =
            Feed { samples: &samples, births: &reading.births, settled_ms: self.began_ms, now_ms: self.began_ms };
        let config = judged.objective.config().counters;
        Objective::learn(config, &mut judged.state, &history, from_ms);
        judged.may_learn = false;
    }

    /// Takes in the answers to an objective's two queries. All samples up to `settled_ms` are in them, or were before.
    pub fn observe(&mut self, index: usize, total: &Answer, errors: &Answer, settled_ms: i64, now_ms: i64) {
        let context =
            RoundContext { warm_up_ends_ms: self.warm_up_ends_ms, weight_changed_at_ms: self.weight_changed_at_ms };
        let Some(judged) = self.objectives.get_mut(index) else { return };
        judged.native_edges = native_edges(errors);
        judged.failing = None;
        // Of some series the requests within could be counted, of others not: what is left would be the fast ones.
        if judged.no_such_edge().is_some() {
            return;
        }
        let reading = Reading::new(&judged.counters, total, errors, &self.pods_created_at, self.began_ms);
        let samples = reading.samples();
        let feed = Feed { samples: &samples, births: &reading.births, settled_ms, now_ms };
        let report = judged.objective.observe(&mut judged.state, &feed, &context);
        if let Some(watch) = &mut judged.watch {
            report.ticks.iter().for_each(|tick| watch.add(&judged.objective.config().evidence, tick));
        }
        if report.from_the_future > 0 {
            tracing::debug!(objective = %judged.spec.name, samples = report.from_the_future, "samples from the future are left out");
        }
    }

    /// Up to when samples count as visible, where the newest of an answer and the clock say what time it is.
    pub fn settled_ms(&self, index: usize, total: &Answer, now_ms: i64) -> i64 {
        let newest_ms = total.iter().filter_map(|series| series.samples.last()).map(|(at_ms, _)| *at_ms).max();
        let present_ms = newest_ms.map_or(now_ms, |newest_ms| newest_ms.max(now_ms));
        self.objectives.get(index).map_or(present_ms, |judged| judged.objective.settled_ms(present_ms))
    }

    /// An objective's metrics could not be read; `since_ms` is when the first failing request was sent.
    pub fn fail(&mut self, index: usize, error: QueryError, since_ms: i64) {
        if let Some(judged) = self.objectives.get_mut(index) {
            let since_ms = judged.failing.as_ref().map_or(since_ms, |failing| failing.since_ms);
            judged.failing = Some(Failing { since_ms, error });
        }
    }

    /// From when (exclusive) the next answer of an objective must have all samples, in milliseconds since the epoch.
    pub fn read_from_ms(&self, index: usize) -> i64 {
        self.objectives.get(index).map_or(self.began_ms, |judged| judged.objective.read_from_ms())
    }

    /// Takes in what is known of the service as a whole.
    pub fn set_service(&mut self, index: usize, service: Service) {
        if let Some(judged) = self.objectives.get_mut(index) {
            // What history has shown once stays shown.
            judged.state.selector_verified |= service.errors_seen;
            judged.service = service;
        }
    }

    /// The trouble of the first objective whose metrics cannot be read for long enough to be told.
    pub(crate) fn trouble(&self, now_ms: i64) -> Option<Trouble> {
        self.objectives.iter().find_map(|judged| judged.trouble(self.grace_ms(), now_ms))
    }

    pub(crate) fn grace_ms(&self) -> i64 {
        self.settings.scrape_interval_ms().saturating_mul(2).clamp(GRACE_BOUNDS_MS.0, GRACE_BOUNDS_MS.1)
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let of = |judged: &Judged| ObjectiveCheckpoint {
            fingerprint: judged.fingerprint.clone(),
            usual_rate: judged.usual_rate,
            state: judged.state.clone(),
            watch: judged.watch.clone(),
        };
        Checkpoint {
            began_ms: self.began_ms,
            warm_up_ends_ms: self.warm_up_ends_ms,
            weight_thousandths: self.weight.thousandths(),
            weight_changed_at_ms: self.weight_changed_at_ms,
            fresh_since_ms: self.fresh_since_ms,
            decided: self.decided.clone(),
            phase: (self.phase.0 != Phase::Release).then_some(self.phase),
            checks: self.checks.states(),
            objectives: self.objectives.iter().map(|judged| (judged.spec.name.clone(), of(judged))).collect(),
        }
    }
}

/// The position at which a release begins to get traffic.
fn fresh(settings: &Settings, request: &JudgeRequest, now_ms: i64) -> Checkpoint {
    // A little earlier, so that the requests before the weight was seen are not lost; rounds without canary requests change nothing.
    let began_ms = now_ms.saturating_sub(millis(settings.scrape_interval));
    let is_canary = |pod: &&String| pod.starts_with(&format!("{}-", request.canary_replica_set));
    let canary_pods = request.pods_created_at.iter().filter(|(pod, _)| is_canary(pod));
    let created_ms = canary_pods.map(|(_, created_at)| created_at.as_millisecond()).min().unwrap_or(began_ms);
    Checkpoint {
        began_ms,
        warm_up_ends_ms: created_ms.saturating_add(millis(settings.warm_up)),
        weight_thousandths: request.weight.thousandths(),
        weight_changed_at_ms: began_ms,
        fresh_since_ms: None,
        decided: None,
        phase: None,
        checks: BTreeMap::new(),
        objectives: BTreeMap::new(),
    }
}

/// A question that comes up so much later than its release is one of mid-release.
const LATE_MS: i64 = 120_000;

/// What has counted already learns from what it counts.
fn can_learn(counters: &Counters, state: &ObjectiveState) -> bool {
    counters.tells_pods() && state.evidence.ticks == 0 && state.evidence.phi().is_none()
}

impl Judged {
    fn begin(
        settings: &Settings,
        prepared: Prepared,
        stored: Option<ObjectiveCheckpoint>,
        began_ms: i64,
        now_ms: i64,
    ) -> Result<Self, Trouble> {
        let fingerprint = fingerprint(settings, &prepared);
        let Prepared { spec, counters, service } = prepared;
        let invalid =
            |error: &dyn std::fmt::Display| Trouble::spec(format!("spec.analysis.objectives[{}]: {error}", spec.name));
        if let Some(stored) = stored.filter(|stored| stored.fingerprint == fingerprint) {
            let config = settings.objective(&spec, stored.usual_rate, counters.verified);
            match Objective::resume(config, &stored.state) {
                Ok(objective) => {
                    let ObjectiveCheckpoint { usual_rate, state, watch, .. } = stored;
                    return Ok(Self {
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
                    });
                }
                Err(error) => tracing::warn!(objective = %spec.name, %error, "the stored evidence is gathered anew"),
            }
        }
        let usual_rate = service.usual_rate();
        let verified = counters.verified || service.errors_seen;
        let config = settings.objective(&spec, usual_rate, verified);
        // A question that is new in mid-release is answered from now on.
        let began_ms = if now_ms.saturating_sub(began_ms) > LATE_MS { now_ms } else { began_ms };
        let (objective, state) = Objective::begin(config, began_ms).map_err(|error| invalid(&error))?;
        Ok(Self {
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
        })
    }

    /// That nothing counts what is slower than the threshold, once it is known which buckets there are.
    fn no_such_edge(&self) -> Option<Trouble> {
        let histogram = self.counters.histogram.as_ref()?;
        let edges = [self.service.edges.as_slice(), &self.native_edges].concat();
        let message = histogram.check(&edges).err().filter(|_| !edges.is_empty())?;
        Some(Trouble::no_such_edge(&self.spec.name, &message))
    }

    fn trouble(&self, grace_ms: i64, now_ms: i64) -> Option<Trouble> {
        if let Some(trouble) = self.no_such_edge() {
            return Some(trouble);
        }
        let failing = self.failing.as_ref()?;
        let is_told = !failing.error.concerns_server() || now_ms.saturating_sub(failing.since_ms) >= grace_ms;
        is_told.then(|| Trouble::of_query(&self.spec.name, &failing.error))
    }

    pub(crate) fn availability(&self, grace_ms: i64, now_ms: i64) -> Availability {
        if self.no_such_edge().is_some() {
            return Availability::Unreachable { since_ms: self.state.evidence.began_ms };
        }
        match &self.failing {
            Some(failing) if self.trouble(grace_ms, now_ms).is_some() => match failing.error {
                QueryError::Partial(_) => Availability::Partial { since_ms: failing.since_ms },
                _ => Availability::Unreachable { since_ms: failing.since_ms },
            },
            _ => Availability::Ok,
        }
    }

    /// What this release may spend of the objective's budget, in errors, where that is known.
    pub(crate) fn allotment(&self, settings: &Settings) -> Option<f64> {
        let budget_fraction = self.objective.config().evidence.budget_fraction;
        self.service.budget(budget_fraction).map(|budget| budget.allotment(&settings.share))
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
            let labels = labels.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
            Series { labels: labels.collect(), samples: vec![(0, 1.0)] }
        };
        let classic = || vec![series("a", Some("0.3")), series("b", Some("0.3"))];
        assert!(native_edges(&classic()).is_empty(), "of a classic one only the threshold's bucket is read");
        let mut native =
            vec![series("a", None), series("a", Some("0.25")), series("a", Some("0.5")), series("b", None)];
        native.push(series("b", Some("0.25")));
        assert_eq!(native_edges(&native), [0.25], "0.5 is inside of a bucket of b");
        native.extend(classic());
        assert_eq!(native_edges(&native), [0.25, 0.3], "both forms are there, and 0.3 is counted by the classic one");
    }
}
