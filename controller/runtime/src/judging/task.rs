//! The task of one release: polls its counters, keeps its evidence, tells when the judgement
//! changes.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serin_core::observed::AnalysisReport;
use serin_metrics_analysis::budget;
use serin_metrics_analysis::checkpoint::Checkpoint;
use serin_metrics_analysis::history::{catch_up, learn};
use serin_metrics_analysis::judged::{Polled, Prepared};
use serin_metrics_analysis::prometheus::{
    Answer, Asked, Poll, QueryError, Server, newest_ms, next_answer,
};
use serin_metrics_analysis::release::{Release, settings_of};
use serin_metrics_analysis::selector::Trouble;
use serin_metrics_analysis::service::{self, Cadence, Questions, Service};
use serin_metrics_analysis::settings::{Settings, millis, slo_window};
use serin_metrics_analysis::telling::{Kind, held};
use serin_metrics_analysis::{JudgeRequest, Look, Phase};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::servers::Unread;
use super::{Bench, lock, triggers};

/// How soon evidence is told again where the judgement has not changed: at first, and at last.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// How long a task that has panicked is left alone.
const AFTER_PANIC: Duration = Duration::from_secs(30);

/// Judges one release until the request's sender is gone.
pub(super) async fn judge(
    bench: Bench,
    request: watch::Receiver<JudgeRequest>,
    told: Arc<Mutex<Look>>,
    triggers: triggers::Sender,
) {
    let mut teller = Teller::new(bench, request.borrow().clone(), told, triggers);
    loop {
        let mut task = Task {
            teller: &mut teller,
            request: request.clone(),
            services: Vec::new(),
        };
        if AssertUnwindSafe(task.run()).catch_unwind().await.is_ok() {
            return;
        }
        let message = "The analysis has failed by a fault of its own; it is tried again. The controller's log has the details.";
        teller.tell(Look::of(held(Trouble {
            cause: "InternalError",
            message: message.to_owned(),
        })));
        sleep(AFTER_PANIC).await;
    }
}

/// Keeps what was told last, and tells whoever waits when it has changed at heart.
struct Teller {
    bench: Bench,
    request: JudgeRequest,
    told: Arc<Mutex<Look>>,
    triggers: triggers::Sender,
    kind: Kind,
    heartbeat: Duration,
    heartbeat_at: Instant,
}

impl Teller {
    fn new(
        bench: Bench,
        request: JudgeRequest,
        told: Arc<Mutex<Look>>,
        triggers: triggers::Sender,
    ) -> Self {
        let kind = Kind::of(&lock(&told));
        Self {
            bench,
            request,
            told,
            triggers,
            kind,
            heartbeat: HEARTBEAT.0,
            heartbeat_at: Instant::now() + HEARTBEAT.0,
        }
    }

    fn now_ms(&self) -> i64 {
        self.bench.clock.now().as_millisecond()
    }

    /// Tells that nothing can be judged for now, and why; what was known stays.
    fn hold(&mut self, trouble: Trouble) {
        let before = lock(&self.told).clone();
        let judgement = held(trouble);
        let is_news = judgement != before.judgement;
        self.tell(Look {
            judgement,
            ..before
        });
        if is_news {
            // Of two that are alike at heart the one says another Secret than the other.
            self.triggers.send(&self.request.rollout);
        }
    }

    fn tell(&mut self, look: Look) {
        let kind = Kind::of(&look);
        let has_evidence = look.checkpoint.is_some();
        let message = match &look.judgement {
            AnalysisReport::NotConfigured => "",
            AnalysisReport::Hold { message, .. }
            | AnalysisReport::Frozen { message, .. }
            | AnalysisReport::Undecided { message, .. }
            | AnalysisReport::Sound { message, .. }
            | AnalysisReport::RollBack { message, .. } => message,
        };
        let has_changed = kind != self.kind;
        // Of what is not released nothing is judged: only its budget is followed.
        if has_changed && self.request.phase != Phase::Idle {
            let (judgement, cause) = (kind.judgement, kind.cause.as_str());
            tracing::info!(namespace = %self.request.rollout.namespace, rollout = %self.request.rollout.name,
                revision = %self.request.revision, judgement, cause, message, "the judgement has changed");
            self.bench.metrics.judged(judgement, cause);
        }
        *lock(&self.told) = look;
        self.kind = kind;
        let is_due = has_evidence && Instant::now() >= self.heartbeat_at;
        if is_due {
            self.heartbeat = (self.heartbeat * 2).min(HEARTBEAT.1);
        }
        if has_changed || is_due {
            self.heartbeat_at = Instant::now() + self.heartbeat;
            self.triggers.send(&self.request.rollout);
        }
    }
}

struct Task<'a> {
    teller: &'a mut Teller,
    request: watch::Receiver<JudgeRequest>,
    /// What is known of the service, by objective, whoever told it.
    services: Vec<watch::Receiver<Service>>,
}

/// An objective that is polled.
struct Line {
    polled: Polled,
    poll: watch::Receiver<Option<Arc<Asked>>>,
    service: watch::Receiver<Service>,
    /// When the last answer that could be read was asked for.
    read_at: Option<Instant>,
}

/// A check that is asked, by its index.
struct CheckLine {
    check: usize,
    poll: watch::Receiver<Option<Arc<Asked>>>,
}

/// What a task wakes up for.
enum Event {
    Answer(usize, Arc<Asked>),
    Check(usize, Arc<Asked>),
    Request,
    /// A check begins: its initial delay or the warm-up is over.
    CheckBegins,
    Ended,
}

impl Task<'_> {
    async fn run(&mut self) {
        let servers = self.teller.bench.servers.clone();
        loop {
            let request = self.request.borrow_and_update().clone();
            let known = servers.of(&request).await.map_err(Unread::trouble);
            let server = match &known {
                Ok(server) => server.clone(),
                // Before the first traffic that is all there is to say.
                Err(trouble) if request.weight.is_zero() => {
                    self.teller.hold(trouble.clone());
                    tokio::select! {
                        asked = self.gets_traffic() => if !asked { return },
                        () = servers.changed(&request, &known) => {}
                    }
                    continue;
                }
                // With traffic this is missing data like any other, and in the end costs the canary
                // its weight.
                Err(Trouble { cause, message }) => {
                    let closed = Some(QueryError::NotAsked {
                        cause,
                        message: message.clone(),
                    });
                    Server {
                        closed,
                        ..Server::default()
                    }
                }
            };
            tokio::select! {
                () = self.judge_at(server) => return,
                // Judged on from the last position, as after a restart.
                () = servers.changed(&request, &known) => {}
            }
        }
    }

    /// Waits until the canary has traffic; false where nobody asks any more.
    async fn gets_traffic(&mut self) -> bool {
        self.request
            .wait_for(|request| !request.weight.is_zero())
            .await
            .is_ok()
    }

    /// Judges by what this server says until nobody asks any more.
    async fn judge_at(&mut self, server: Server) {
        let request = self.request.borrow_and_update().clone();
        let prepared = settings_of(&request, server)
            .and_then(|settings| Ok((settings, Prepared::all(&request)?)));
        let outcome = match prepared {
            Ok((settings, prepared)) => self.follow(settings, prepared).await,
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = outcome {
            // A spec that changes is judged by another task.
            self.teller.tell(Look::of(held(trouble)));
            while self.request.changed().await.is_ok() {}
        }
    }

    async fn follow(
        &mut self,
        settings: Settings,
        mut prepared: Vec<Prepared>,
    ) -> Result<(), Trouble> {
        let mut followers = JoinSet::new();
        let mut services = Vec::new();
        let is_idle = self.request.borrow().phase == Phase::Idle;
        let cadence = if is_idle {
            Cadence::IDLE
        } else {
            Cadence::RELEASE
        };
        for (index, objective) in prepared.iter().enumerate() {
            let questions = Questions::new(&objective.counters, slo_window(&objective.spec)?);
            let known = self
                .services
                .get(index)
                .map(|service| service.borrow().clone());
            let (sender, receiver) = watch::channel(known.unwrap_or_default());
            followers.spawn(service::follow(
                self.teller.bench.poller.clone(),
                settings.server.clone(),
                questions,
                cadence,
                sender,
            ));
            services.push(receiver);
        }
        self.services.clone_from(&services);
        let request = self.request.borrow().clone();
        let own = lock(&self.teller.told).checkpoint.clone();
        let resume_from = own.or_else(|| request.resume_from.clone());
        let checkpoint = Checkpoint::of(resume_from.as_ref(), &request).filter(|_| !is_idle);
        if checkpoint.is_none()
            && !self
                .traffic_begins(&settings, &prepared, &mut services)
                .await
        {
            return Ok(());
        }
        for (objective, service) in prepared.iter_mut().zip(&mut services) {
            objective.service = service.borrow_and_update().clone();
        }
        let request = self.request.borrow_and_update().clone();
        let release = Release::begin(
            settings,
            prepared,
            &request,
            checkpoint,
            self.teller.now_ms(),
        )?;
        self.judge(release, services).await;
        Ok(())
    }

    /// Waits for the canary's first traffic, and tells meanwhile how the budgets stand; false where
    /// nobody asks any more.
    async fn traffic_begins(
        &mut self,
        settings: &Settings,
        prepared: &[Prepared],
        services: &mut [watch::Receiver<Service>],
    ) -> bool {
        loop {
            let request = self.request.borrow_and_update().clone();
            if !request.weight.is_zero() && request.phase != Phase::Idle {
                return true;
            }
            let now = self.teller.bench.clock.now();
            let known = prepared.iter().zip(services.iter_mut());
            let budgets = known.filter_map(|(objective, service)| {
                budget::told(
                    &objective.spec,
                    &service.borrow_and_update(),
                    settings,
                    request.proven_at,
                    now,
                )
            });
            let budgets = budgets.collect();
            self.teller.tell(Look {
                budgets,
                ..Look::undecided("No traffic is routed to the canary yet.", now)
            });
            let mut news: FuturesUnordered<_> =
                services.iter_mut().map(watch::Receiver::changed).collect();
            tokio::select! {
                changed = self.request.changed() => if changed.is_err() { return false },
                Some(Ok(())) = news.next() => {}
            }
        }
    }

    async fn judge(&mut self, mut release: Release, services: Vec<watch::Receiver<Service>>) {
        let mut lines: Vec<Line> = services
            .into_iter()
            .enumerate()
            .filter_map(|(index, service)| {
                let polled = release.polled(index)?;
                Some(Line {
                    poll: self.subscribe(&release, &polled),
                    polled,
                    service,
                    read_at: None,
                })
            })
            .collect();
        let mut check_lines = Vec::new();
        // Without objectives no answer comes before a check begins; until then the status says when
        // that is.
        if lines.is_empty() {
            let now_ms = self.teller.now_ms();
            self.teller.tell(release.look(now_ms));
        }
        loop {
            self.follow_checks(&release, &mut check_lines);
            let now_ms = self.teller.now_ms();
            let begins_ms = release
                .next_check_begins_ms(now_ms)
                .map(|begins_ms| begins_ms.saturating_sub(now_ms));
            match self.next(&mut lines, &mut check_lines, begins_ms).await {
                Event::Ended => return,
                Event::CheckBegins => {}
                Event::Request => {
                    release.take_in(&self.request.borrow_and_update(), self.teller.now_ms())
                }
                Event::Answer(index, asked) => {
                    if let Some(line) = lines.get_mut(index) {
                        self.take_answer(&mut release, index, line, &asked).await;
                    }
                }
                Event::Check(index, asked) => {
                    let now_ms = self.teller.now_ms();
                    let asked_ms = now_ms.saturating_sub(millis(asked.sent_at.elapsed()));
                    release.observe_check(index, &asked.answers, asked_ms, now_ms);
                }
            }
            let now_ms = self.teller.now_ms();
            self.teller.tell(release.look(now_ms));
        }
    }

    fn subscribe(&self, release: &Release, polled: &Polled) -> watch::Receiver<Option<Arc<Asked>>> {
        let Polled {
            queries, period, ..
        } = polled.clone();
        self.teller.bench.poller.subscribe(Poll {
            server: release.settings.server.clone(),
            queries,
            period,
        })
    }

    /// Asks the checks whose time it is, and no others.
    fn follow_checks(&self, release: &Release, lines: &mut Vec<CheckLine>) {
        let now_ms = self.teller.now_ms();
        lines.retain(|line| release.asks(line.check, now_ms));
        for (check, of) in release.checks.all().iter().enumerate() {
            if release.asks(check, now_ms) && lines.iter().all(|line| line.check != check) {
                let queries = vec![of.query.clone()];
                let poll = Poll {
                    server: release.settings.server.clone(),
                    queries,
                    period: of.interval,
                };
                lines.push(CheckLine {
                    check,
                    poll: self.teller.bench.poller.subscribe(poll),
                });
            }
        }
    }

    async fn next(
        &mut self,
        lines: &mut [Line],
        checks: &mut [CheckLine],
        begins_in_ms: Option<i64>,
    ) -> Event {
        let begins_in =
            begins_in_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        let answers = lines.iter_mut().enumerate().map(|(index, line)| {
            async move { Event::Answer(index, next_answer(&mut line.poll).await) }.boxed()
        });
        let checked = checks.iter_mut().map(|line| {
            async move { Event::Check(line.check, next_answer(&mut line.poll).await) }.boxed()
        });
        let mut all: FuturesUnordered<_> = answers.chain(checked).collect();
        tokio::select! {
            Some(event) = all.next() => event,
            () = sleep(begins_in.unwrap_or(Duration::MAX)), if begins_in.is_some() => Event::CheckBegins,
            changed = self.request.changed() => if changed.is_ok() { Event::Request } else { Event::Ended },
        }
    }

    async fn take_answer(
        &self,
        release: &mut Release,
        index: usize,
        line: &mut Line,
        asked: &Asked,
    ) {
        if line.service.has_changed().unwrap_or(false) {
            release.set_service(index, line.service.borrow_and_update().clone());
        }
        if let Err(error) = self.read(release, index, line, asked).await {
            let waited_ms = millis(asked.sent_at.elapsed());
            release.fail(index, error, self.teller.now_ms().saturating_sub(waited_ms));
        }
        // Series that were too many are asked for in another way from now on.
        if let Some(polled) = release
            .polled(index)
            .filter(|polled| *polled != line.polled)
        {
            *line = Line {
                poll: self.subscribe(release, &polled),
                polled,
                service: line.service.clone(),
                read_at: None,
            };
        }
    }

    async fn read(
        &self,
        release: &mut Release,
        index: usize,
        line: &mut Line,
        asked: &Asked,
    ) -> Result<(), QueryError> {
        let answers = match &asked.answers {
            Ok(answers) => answers,
            Err(QueryError::TooLarge(_)) if release.sum_up(index) => return Ok(()),
            Err(error) => return Err(error.clone()),
        };
        let poller = &self.teller.bench.poller;
        learn(poller, release, index).await?;
        // The poll's range must reach back to what was read before, and to the rounds that were
        // open then.
        let Polled { range, open, .. } = line.polled;
        let reaches = line
            .read_at
            .is_some_and(|read_at| asked.sent_at.saturating_duration_since(read_at) + open < range);
        if !reaches {
            catch_up(poller, release, index, self.teller.now_ms()).await?;
        }
        line.read_at = Some(asked.sent_at);
        release.observe_polled(index, &line.polled, answers, self.teller.now_ms());
        if let Some(total) = answers.first().filter(|_| !line.polled.is_summed) {
            self.note_age(total);
        }
        Ok(())
    }

    fn note_age(&self, total: &Answer) {
        let age_ms =
            newest_ms(total).map(|newest_ms| self.teller.now_ms().saturating_sub(newest_ms).max(0));
        if let Some(age) = age_ms.and_then(|age_ms| u64::try_from(age_ms).ok()) {
            self.teller
                .bench
                .metrics
                .set_evidence_age(Duration::from_millis(age));
        }
    }
}
