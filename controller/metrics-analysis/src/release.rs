//! One release under judgement, without IO: answers in, the state of the evidence out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_analysis::objective::RoundContext;
use serin_analysis::watch::Watch;
use serin_analysis::{Feed, Objective};
use serin_core::units::{Revision, Weight};

use crate::checkpoint::{Checkpoint, Decided, previous_ended_second};
use crate::checks::{Checks, Position};
use crate::judged::{Failing, Judged, Polled, Prepared};
use crate::prometheus::{Answer, QueryError, Server, newest_ms};
use crate::reading::{Reading, Samples};
use crate::request::{JudgeRequest, Phase};
use crate::selector::Trouble;
use crate::service::Service;
use crate::settings::{Settings, millis};
use crate::targets::Targets;

/// For how long a server in trouble may be silent before that is told: two scrapes, within bounds.
/// Until then the data in hand is as fresh as it would be anyway.
const GRACE_BOUNDS_MS: (i64, i64) = (2_000, 30_000);

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
    /// When the canary was first seen to have traffic.
    traffic_since_ms: i64,
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
    /// When each pod was created. A canary pod of an earlier attempt is left out: what it counted
    /// before is not of this one.
    pods_created_at: BTreeMap<String, Timestamp>,
    /// When each canary pod was created, in milliseconds since the epoch, whatever the attempt.
    canary_created_ms: Vec<i64>,
    previous_ended_at: Option<Timestamp>,
    /// Whether the service burned its budget when the release began, and has done so since; `None`
    /// until that could be read.
    pub(crate) burned_before: Option<bool>,
}

/// The settings that a request asks for; `server` is asked.
///
/// # Errors
/// The field that cannot be read.
pub fn settings_of(request: &JudgeRequest, server: Server) -> Result<Settings, Trouble> {
    Settings::new(&request.analysis, request.pace.as_ref(), server)
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
            objectives.push(Judged::begin(
                &settings, prepared, stored, began_ms, now_ms,
            )?);
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
            traffic_since_ms: checkpoint.traffic_since_ms.unwrap_or(began_ms),
            fresh_since_ms: checkpoint.fresh_since_ms,
            decided: checkpoint.decided,
            by_steps: request.pace.is_none(),
            proven_at: request.proven_at,
            freeze_lifted: request.freeze_lifted,
            warm_up_ends_ms: checkpoint.warm_up_ends_ms,
            pods_created_at: BTreeMap::new(),
            canary_created_ms: Vec::new(),
            previous_ended_at: request.previous_ended_at,
            burned_before: checkpoint.burned_before,
        };
        release.take_in(request, now_ms);
        release.note_burning_before();
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
        for judged in &mut self.objectives {
            judged.counters.note_pods(&request.pod_sides);
        }
        self.canary_created_ms = request.canary_created_ms().collect();
        let is_of_attempt = |pod: &str, created_at: &Timestamp| {
            let is_earlier = |ended_at: Timestamp| created_at.as_second() < ended_at.as_second();
            !(request.is_canary_pod(pod) && request.previous_ended_at.is_some_and(is_earlier))
        };
        let of_attempt = request
            .pods_created_at
            .iter()
            .filter(|(pod, created_at)| is_of_attempt(pod, created_at));
        self.pods_created_at = of_attempt
            .map(|(pod, created_at)| (pod.clone(), *created_at))
            .collect();
    }

    pub(crate) fn enter(&mut self, phase: Phase, now_ms: i64) {
        self.phase = (phase, now_ms);
        for judged in &mut self.objectives {
            judged.watch = (phase == Phase::AfterPromotion)
                .then(|| {
                    let (bets, evidence) = (judged.objective.bets(), &judged.state.evidence);
                    let usual_rate = judged.usual_rate.or_else(|| judged.service.usual_rate());
                    Watch::begin(
                        bets,
                        evidence,
                        usual_rate,
                        now_ms,
                        self.settings.watch.as_secs_f64(),
                    )
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
            traffic_since_ms: self.traffic_since_ms,
            warm_up_ends_ms: self.warm_up_ends_ms,
            pods_are_young: self.pods_are_young(now_ms),
            grace_ms: self.grace_ms(),
            now_ms,
        }
    }

    /// Whether at least half of the canary's pods are younger than the warm-up, as after a
    /// scale-up. The replacement of one pod among many changes nothing.
    fn pods_are_young(&self, now_ms: i64) -> bool {
        let warm_up_ms = millis(self.settings.warm_up);
        let is_young = |created_ms: &&i64| now_ms < created_ms.saturating_add(warm_up_ms);
        let young = self.canary_created_ms.iter().filter(is_young).count();
        young > 0 && young.saturating_mul(2) >= self.canary_created_ms.len()
    }

    /// When the next check begins that waits for its initial delay or the warm-up, in milliseconds
    /// since the epoch.
    pub fn next_check_begins_ms(&self, now_ms: i64) -> Option<i64> {
        self.checks.next_begins_ms(&self.position(now_ms))
    }

    /// Whether a check is to be asked now.
    pub fn asks(&self, check: usize, now_ms: i64) -> bool {
        self.checks.is_asked(check, &self.position(now_ms))
    }

    /// Takes in what a check that was asked at `asked_ms` has found.
    pub fn observe_check(
        &mut self,
        check: usize,
        found: &Result<Vec<Answer>, QueryError>,
        asked_ms: i64,
        now_ms: i64,
    ) {
        let position = self.position(now_ms);
        self.checks.observe(check, found, asked_ms, &position);
    }

    /// Whether an objective has gathered nothing yet and could learn from before the release how
    /// stable's errors cluster.
    pub(crate) fn may_learn(&self, index: usize) -> bool {
        self.objectives
            .get(index)
            .is_some_and(|judged| judged.may_learn)
    }

    /// Learns how stable's errors cluster from the answers about the time from `from_ms` on until
    /// the release began.
    pub(crate) fn learn(&mut self, index: usize, answers: &[Answer], from_ms: i64) {
        let Some(judged) = self.objectives.get_mut(index) else {
            return;
        };
        judged.may_learn = false;
        if let Some(sums) = judged.sums() {
            if let [total, second, scraped, ..] = answers {
                let rounds = sums.rounds(&judged.counters, [total, second, scraped]);
                judged.state.evidence.learn_dispersion(&rounds.ticks);
            }
            return;
        }
        let Some(Samples { total, second, .. }) = Samples::of(answers) else {
            return;
        };
        // What cannot be assigned before the release cannot be in it either, and is named then.
        let Ok([total, second]) = Targets::default().select(&judged.counters, [total, second])
        else {
            return;
        };
        let reading = Reading::new(
            &judged.counters,
            &total,
            &second,
            &self.pods_created_at,
            self.began_ms,
        );
        let samples = reading.samples();
        let history = Feed {
            samples: &samples,
            births: &reading.births,
            settled_ms: self.began_ms,
            now_ms: self.began_ms,
        };
        let config = judged.objective.config().counters;
        Objective::learn(config, &mut judged.state, &history, from_ms);
    }

    /// Takes in the samples of an objective's single series. All samples up to `settled_ms` are in
    /// them, or were before.
    pub fn observe(&mut self, index: usize, samples: Samples<'_>, settled_ms: i64, now_ms: i64) {
        let context = self.round_context();
        let births = (&self.pods_created_at, self.began_ms);
        if let Some(judged) = self.objectives.get_mut(index) {
            judged.observe(samples, births, (settled_ms, now_ms), &context);
        }
    }

    /// What is asked of an objective again and again.
    pub fn polled(&self, index: usize) -> Option<Polled> {
        self.objectives.get(index).map(Judged::polled)
    }

    /// Takes in the answers to what was polled of an objective; those to another question than it
    /// asks by now are left out.
    pub fn observe_polled(
        &mut self,
        index: usize,
        polled: &Polled,
        answers: &[Answer],
        now_ms: i64,
    ) {
        if self.polled(index).as_ref() != Some(polled) {
            return;
        }
        if polled.is_summed {
            self.observe_sums(index, answers, now_ms);
        } else if let Some(samples) = Samples::of(answers) {
            let settled_ms = self.settled_ms(index, samples.total, now_ms);
            self.observe(index, samples, settled_ms, now_ms);
        }
    }

    pub(crate) fn is_summed(&self, index: usize) -> bool {
        self.objectives
            .get(index)
            .is_some_and(|judged| judged.sums().is_some())
    }

    /// Takes in the answers to an objective's queries of sums.
    pub(crate) fn observe_sums(&mut self, index: usize, answers: &[Answer], now_ms: i64) {
        let context = self.round_context();
        if let Some(judged) = self.objectives.get_mut(index) {
            judged.observe_sums(answers, now_ms, &context);
        }
    }

    const fn round_context(&self) -> RoundContext {
        RoundContext {
            warm_up_ends_ms: self.warm_up_ends_ms,
            weight_changed_at_ms: self.weight_changed_at_ms,
        }
    }

    /// An answer was too large: from now on, and until the release is over, Prometheus adds this
    /// objective's series up; false where it does so already. What was counted stays, and nothing
    /// of it counts again.
    pub fn sum_up(&mut self, index: usize) -> bool {
        self.objectives.get_mut(index).is_some_and(Judged::sum_up)
    }

    /// Up to when samples count as visible, where the newest of an answer and the clock say what
    /// time it is.
    pub fn settled_ms(&self, index: usize, total: &Answer, now_ms: i64) -> i64 {
        let present_ms = newest_ms(total).map_or(now_ms, |newest_ms| newest_ms.max(now_ms));
        self.objectives
            .get(index)
            .map_or(present_ms, |judged| judged.objective.settled_ms(present_ms))
    }

    /// An objective's metrics could not be read; `since_ms` is when the first failing request was
    /// sent.
    pub fn fail(&mut self, index: usize, error: QueryError, since_ms: i64) {
        if let Some(judged) = self.objectives.get_mut(index) {
            let since_ms = judged
                .failing
                .as_ref()
                .map_or(since_ms, |failing| failing.since_ms);
            judged.failing = Some(Failing { since_ms, error });
        }
    }

    /// From when (exclusive) the next answer of an objective must have all samples, in milliseconds
    /// since the epoch.
    pub fn read_from_ms(&self, index: usize) -> i64 {
        self.objectives
            .get(index)
            .map_or(self.began_ms, |judged| match judged.sums() {
                Some(_) => judged.state.round_at_ms,
                None => judged.objective.read_from_ms(),
            })
    }

    /// Takes in what is known of the service as a whole.
    pub fn set_service(&mut self, index: usize, service: Service) {
        if let Some(judged) = self.objectives.get_mut(index) {
            judged.set_service(service);
        }
        self.note_burning_before();
    }

    /// Notes once, as soon as it can be read, whether the service burned its budget when the
    /// release began.
    pub(crate) fn note_burning_before(&mut self) {
        if self.burned_before.is_none()
            && self
                .objectives
                .iter()
                .any(|judged| judged.service.knows_burning())
        {
            self.burned_before = Some(self.burning().is_some());
        }
    }

    /// The trouble of the first objective whose metrics cannot be read for long enough to be told.
    pub(crate) fn trouble(&self, now_ms: i64) -> Option<Trouble> {
        self.objectives
            .iter()
            .find_map(|judged| judged.trouble(self.grace_ms(), now_ms))
    }

    pub(crate) fn grace_ms(&self) -> i64 {
        self.scrape_interval_ms()
            .saturating_mul(2)
            .clamp(GRACE_BOUNDS_MS.0, GRACE_BOUNDS_MS.1)
    }

    /// The slowest scrape interval of all objectives; without an objective the configured one.
    pub(crate) fn scrape_interval_ms(&self) -> i64 {
        let slowest_ms = self.objectives.iter().map(Judged::scrape_interval_ms).max();
        slowest_ms.unwrap_or_else(|| self.settings.scrape_interval_ms())
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            began_ms: self.began_ms,
            traffic_since_ms: Some(self.traffic_since_ms),
            warm_up_ends_ms: self.warm_up_ends_ms,
            weight_thousandths: self.weight.thousandths(),
            weight_changed_at_ms: self.weight_changed_at_ms,
            fresh_since_ms: self.fresh_since_ms,
            decided: self.decided.clone(),
            previous_ended_second: Some(previous_ended_second(self.previous_ended_at)),
            burned_before: self.burned_before,
            phase: (self.phase.0 != Phase::Release).then_some(self.phase),
            checks: self.checks.states(),
            objectives: self
                .objectives
                .iter()
                .map(|judged| (judged.spec.name.clone(), judged.checkpoint()))
                .collect(),
        }
    }
}

/// The position at which a release begins to get traffic.
fn fresh(settings: &Settings, request: &JudgeRequest, now_ms: i64) -> Checkpoint {
    // A little earlier, so that the requests before the weight was seen are not lost; rounds
    // without canary requests change nothing.
    let began_ms = now_ms.saturating_sub(millis(settings.scrape_interval));
    // The newest pod counts: an older one may be what an earlier attempt has left.
    let created_ms = request
        .canary_created_ms()
        .max()
        .unwrap_or(began_ms)
        .min(now_ms);
    Checkpoint {
        began_ms,
        traffic_since_ms: Some(now_ms),
        warm_up_ends_ms: created_ms.saturating_add(millis(settings.warm_up)),
        weight_thousandths: request.weight.thousandths(),
        // Patience with missing samples starts now, however long ago the last scrape was.
        weight_changed_at_ms: now_ms,
        fresh_since_ms: None,
        decided: None,
        previous_ended_second: Some(previous_ended_second(request.previous_ended_at)),
        burned_before: None,
        phase: None,
        checks: BTreeMap::new(),
        objectives: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests;
