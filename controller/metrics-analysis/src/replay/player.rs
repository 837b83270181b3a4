//! The reading of the record, slice by slice, and the polls of the controller on it.

use std::collections::BTreeMap;

use serin_core::observed::AnalysisReport;
use serin_core::units::Weight;

use super::births::{Births, POD_CREATED};
use super::tape::Tape;
use super::under_way::UnderWay;
use super::weights::{Observer, Weights};
use super::{Course, Ending, GAP_SCRAPES, LOOK_BACK_MS, Moment, Question, ReplayError, Replayed};
use crate::history;
use crate::judged::Prepared;
use crate::prometheus::{Answer, Poller, Server};
use crate::reading::{Reading, Samples};
use crate::release::{Release, settings_of};
use crate::request::JudgeRequest;
use crate::scrape_interval::ScrapeInterval;
use crate::selector::Trouble;
use crate::service::{self, Questions, Service};
use crate::settings::{millis, slo_window};

/// The service is asked about no more often than the controller does, and so many times in a replay
/// at most.
const GUARD_MS: i64 = 15_000;
const BUDGET_MS: i64 = 60_000;
const GUARD_QUESTIONS: i64 = 240;
const BUDGET_QUESTIONS: i64 = 60;

pub(super) struct Player<'a> {
    poller: &'a Poller,
    question: &'a Question,
    server: Server,
    configured_ms: i64,
    /// The slowest scrape interval of all objectives, as far as the record shows it.
    interval_ms: i64,
    scrapes: Vec<ScrapeInterval>,
    poll_ms: i64,
    quiet_ms: i64,
    prepared: Vec<Prepared>,
    questions: Vec<Questions>,
    tapes: Vec<Tape>,
    births: Births,
    clock_ms: i64,
    /// When the canary was last seen to get a request, as far as releases that are over go.
    canary_at_ms: Option<i64>,
    under_way: Option<UnderWay>,
    done: Vec<Replayed>,
}

impl<'a> Player<'a> {
    pub(super) fn new(poller: &'a Poller, question: &'a Question) -> Result<Self, ReplayError> {
        let settings = settings_of(&question.request, question.server.clone())?;
        let prepared = Prepared::all(&question.request)?;
        let ask = |of: &Prepared| Ok(Questions::new(&of.counters, slo_window(&of.spec)?));
        let questions = prepared
            .iter()
            .map(ask)
            .collect::<Result<Vec<_>, Trouble>>()?;
        let interval_ms = settings.scrape_interval_ms();
        Ok(Self {
            poller,
            question,
            server: settings.server.clone(),
            configured_ms: interval_ms,
            interval_ms,
            scrapes: vec![ScrapeInterval::new(interval_ms, None); prepared.len()],
            quiet_ms: question
                .quiet_ms
                .max(interval_ms.saturating_mul(GAP_SCRAPES)),
            poll_ms: millis(settings.poll_period()).max(1),
            tapes: vec![Tape::default(); prepared.len()],
            births: Births::of(&question.request),
            prepared,
            questions,
            clock_ms: question.from_ms,
            canary_at_ms: None,
            under_way: None,
            done: Vec::new(),
        })
    }

    pub(super) async fn read(&mut self, from_ms: i64, to_ms: i64) -> Result<(), ReplayError> {
        let mut read = Vec::with_capacity(self.prepared.len());
        for Prepared { spec, counters, .. } in &self.prepared {
            let answers = history::read(self.poller, &self.server, counters, from_ms, to_ms).await;
            read.push(answers.map_err(|error| ReplayError::Query {
                of: spec.name.clone(),
                error,
            })?);
        }
        let births = self
            .births
            .read(self.poller, &self.server, (from_ms, to_ms))
            .await;
        births.map_err(|error| ReplayError::Query {
            of: POD_CREATED.to_owned(),
            error,
        })?;
        self.learn_scrape_interval(&read, to_ms);
        for ((tape, prepared), answers) in self.tapes.iter_mut().zip(&self.prepared).zip(read) {
            tape.forget_before(self.clock_ms.saturating_sub(2 * LOOK_BACK_MS));
            tape.append(&prepared.counters, answers, self.interval_ms);
        }
        Ok(())
    }

    fn learn_scrape_interval(&mut self, read: &[Vec<Answer>], now_ms: i64) {
        for ((scrapes, prepared), answers) in self.scrapes.iter_mut().zip(&self.prepared).zip(read)
        {
            let Some(samples) = Samples::of(answers) else {
                continue;
            };
            let none = BTreeMap::new();
            let reading = Reading::new(
                &prepared.counters,
                samples.total,
                samples.second,
                &none,
                i64::MIN,
            );
            let samples = reading.samples();
            scrapes.observe(
                samples.iter().map(|sample| (sample.source, sample.at_ms)),
                now_ms,
            );
        }
        let slowest_ms = self.scrapes.iter().map(ScrapeInterval::interval_ms).max();
        self.interval_ms = slowest_ms.unwrap_or(self.configured_ms);
        self.quiet_ms = self
            .question
            .quiet_ms
            .max(self.interval_ms.saturating_mul(GAP_SCRAPES));
    }

    /// Plays what was read.
    pub(super) async fn play(&mut self, until_ms: i64) -> Result<(), ReplayError> {
        loop {
            if self.under_way.is_none() {
                let Some(first_ms) = self.next_traffic(until_ms) else {
                    self.clock_ms = until_ms;
                    return Ok(());
                };
                self.clock_ms = first_ms;
                self.begin().await?;
            } else if self.clock_ms.saturating_add(self.poll_ms) <= until_ms {
                self.clock_ms += self.poll_ms;
                self.ask_about_service().await;
            } else {
                return Ok(());
            }
            self.poll();
        }
    }

    fn next_traffic(&mut self, until_ms: i64) -> Option<i64> {
        if let Some(began_ms) = self.question.began_ms.filter(|_| self.done.is_empty()) {
            // A judgement begins a scrape before the traffic that it was begun for.
            let first_ms = began_ms.saturating_add(self.configured_ms);
            return (first_ms <= until_ms).then_some(first_ms);
        }
        loop {
            let after_ms = self
                .canary_at_ms
                .map_or(self.clock_ms, |at_ms| at_ms.max(self.clock_ms));
            let tapes = self.tapes.iter().zip(&self.prepared);
            let first_ms = tapes
                .filter_map(|(tape, prepared)| {
                    tape.first_canary_request(&prepared.counters, after_ms, until_ms)
                })
                .min()?;
            // A canary that has taken over goes on to get requests, which makes no new release of
            // it.
            let was_quiet = self
                .canary_at_ms
                .is_none_or(|at_ms| first_ms.saturating_sub(at_ms) >= self.quiet_ms);
            self.canary_at_ms = Some(first_ms);
            if was_quiet {
                return Some(first_ms);
            }
        }
    }

    async fn begin(&mut self) -> Result<(), ReplayError> {
        let now_ms = self.clock_ms;
        let settings = settings_of(&self.question.request, self.server.clone())?;
        let longest_ms = millis(settings.longest);
        let mut services = Vec::with_capacity(self.prepared.len());
        for questions in &self.questions {
            services.push(self.service_at(questions, &Service::default(), false).await);
        }
        let mut prepared = self.prepared.clone();
        for (prepared, service) in prepared.iter_mut().zip(&services) {
            prepared.service = service.clone();
        }
        let weight = match &self.question.weights {
            Weights::Set(_) => self.weight_set(0),
            Weights::Observed => Some(Weight::percent(1)),
        };
        let weight = weight.unwrap_or(Weight::ZERO);
        let tapes: Vec<_> = self
            .tapes
            .iter()
            .zip(self.prepared.iter().map(|prepared| &prepared.counters))
            .collect();
        let there = self
            .births
            .at(
                self.poller,
                &self.server,
                &tapes,
                (now_ms, self.interval_ms),
            )
            .await;
        let pods_created_at = there.map_err(|error| ReplayError::Query {
            of: POD_CREATED.to_owned(),
            error,
        })?;
        let request = JudgeRequest {
            pods_created_at,
            weight,
            ..self.question.request.clone()
        };
        let mut release = Release::begin(settings, prepared, &request, None, now_ms)?;
        for index in 0..release.objectives.len() {
            let learnt = history::learn(self.poller, &mut release, index).await;
            let of = |release: &Release| {
                release
                    .objectives
                    .get(index)
                    .map(|judged| judged.spec.name.clone())
            };
            learnt.map_err(|error| ReplayError::Query {
                of: of(&release).unwrap_or_default(),
                error,
            })?;
        }
        let replayed = Replayed {
            began_ms: now_ms,
            ended_ms: now_ms,
            ending: Ending::Record,
            moments: Vec::new(),
            decision: None,
            objectives: release.objectives.iter().map(Course::of).collect(),
            gaps: Vec::new(),
        };
        self.under_way = Some(UnderWay {
            release,
            request,
            observer: Observer::default(),
            kind: None,
            replayed,
            services,
            guard_at_ms: now_ms,
            budget_at_ms: now_ms,
            longest_ms,
            canary_at_ms: now_ms,
            stable_at_ms: now_ms,
        });
        Ok(())
    }

    fn weight_set(&self, since_ms: i64) -> Option<Weight> {
        let Weights::Set(steps) = &self.question.weights else {
            return None;
        };
        steps
            .iter()
            .rev()
            .find(|(from_ms, _)| *from_ms <= since_ms)
            .map(|(_, weight)| *weight)
    }

    /// What was known of the service then. Where it cannot be read, what was known before stands,
    /// as with the controller.
    async fn service_at(
        &self,
        questions: &Questions,
        before: &Service,
        knows_budget: bool,
    ) -> Service {
        let asked = service::at(
            self.poller,
            &self.server,
            questions,
            self.clock_ms,
            before,
            knows_budget,
        )
        .await;
        asked
            .inspect_err(|error| tracing::warn!(%error, "the service's budget and burn rate could not be read"))
            .unwrap_or_else(|_| before.clone())
    }

    async fn ask_about_service(&mut self) {
        let span_ms = self.question.to_ms.saturating_sub(self.question.from_ms);
        let Some(under_way) = &self.under_way else {
            return;
        };
        if self.clock_ms
            < under_way
                .guard_at_ms
                .saturating_add(GUARD_MS.max(span_ms / GUARD_QUESTIONS))
        {
            return;
        }
        let budget_due_ms = under_way
            .budget_at_ms
            .saturating_add(BUDGET_MS.max(span_ms / BUDGET_QUESTIONS));
        let knows_budget = self.clock_ms < budget_due_ms;
        let mut services = Vec::with_capacity(self.questions.len());
        for (questions, before) in self.questions.iter().zip(&under_way.services) {
            services.push(self.service_at(questions, before, knows_budget).await);
        }
        let now_ms = self.clock_ms;
        let Some(under_way) = &mut self.under_way else {
            return;
        };
        under_way.guard_at_ms = now_ms;
        if !knows_budget {
            under_way.budget_at_ms = now_ms;
        }
        for (index, service) in services.iter().enumerate() {
            under_way.release.set_service(index, service.clone());
        }
        under_way.services = services;
    }

    /// One poll: the samples as far as they were visible, and what is said of them.
    fn poll(&mut self) {
        let (now_ms, births) = (
            self.clock_ms,
            self.births.all(&self.tapes, self.interval_ms),
        );
        let weight_set = self
            .under_way
            .as_ref()
            .map(|under_way| now_ms.saturating_sub(under_way.replayed.began_ms));
        let weight_set = weight_set.and_then(|since_ms| self.weight_set(since_ms));
        let Some(under_way) = &mut self.under_way else {
            return;
        };
        under_way.request.pods_created_at = births;
        for (index, tape) in self.tapes.iter().enumerate() {
            let answers = tape.cut(under_way.release.read_from_ms(index), now_ms);
            let Some(samples) = Samples::of(&answers) else {
                continue;
            };
            let settled_ms = under_way.release.settled_ms(index, samples.total, now_ms);
            let before = under_way.before(index);
            under_way
                .release
                .observe(index, samples, settled_ms, now_ms);
            under_way.note_traffic(index, before);
        }
        if let Some(weight) = weight_set {
            under_way.request.weight = weight;
        }
        under_way.release.take_in(&under_way.request, now_ms);
        let look = under_way.release.look(now_ms);
        under_way.note_rounds(&look, self.interval_ms);
        under_way.note_moment(look, now_ms);
        if let Some(ending) = under_way.ending(now_ms, self.quiet_ms) {
            self.end(ending);
        }
    }

    fn end(&mut self, ending: Ending) {
        let Some(UnderWay {
            mut replayed,
            canary_at_ms,
            stable_at_ms,
            ..
        }) = self.under_way.take()
        else {
            return;
        };
        self.canary_at_ms = Some(if ending == Ending::StableStopped {
            self.clock_ms
        } else {
            canary_at_ms
        });
        replayed.ending = ending;
        replayed.ended_ms = match ending {
            Ending::Record => self.clock_ms,
            Ending::CanaryStopped => canary_at_ms,
            Ending::StableStopped => stable_at_ms,
        };
        for Course { name, rounds, .. } in &replayed.objectives {
            let last_ms = rounds.last().map_or(replayed.began_ms, |round| round.at_ms);
            if replayed.ended_ms.saturating_sub(last_ms)
                > GAP_SCRAPES.saturating_mul(self.interval_ms)
            {
                replayed
                    .gaps
                    .push((name.clone(), last_ms, replayed.ended_ms));
            }
        }
        // That nothing was seen after the end is no news.
        let ended_ms = replayed.ended_ms;
        let is_news = |moment: &Moment| {
            !(moment.at_ms > ended_ms && matches!(moment.judgement, AnalysisReport::Hold { .. }))
        };
        replayed.moments.retain(is_news);
        replayed.gaps.retain(|(_, from_ms, _)| *from_ms < ended_ms);
        for Course { rounds, .. } in &mut replayed.objectives {
            rounds.retain(|round| round.at_ms <= ended_ms);
        }
        self.done.push(replayed);
    }

    pub(super) fn finish(mut self) -> Vec<Replayed> {
        self.end(Ending::Record);
        self.done
    }
}
