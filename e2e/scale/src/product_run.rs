//! The run of one product: its control plane, its controllers, and the measurement of phases.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::Api;
use crate::audit::{AuditLog, AuditQuery, AuditReport, unix_seconds};
use crate::control_plane::{CONTROLLERS, ControlPlane, unused_port};
use crate::fleet::{Fleet, Goal};
use crate::phase::{Phase, ScaleOptions};
use crate::process::{Process, ProcessCommand, machine_cpu_seconds, own_cpu_seconds};
use crate::product::{ControllerStart, Product, ProductKind};
use crate::results::{PhaseResult, Usage};
use crate::statistics::Summary;
use crate::tools::Tools;

/// Requests of the driver that are under way at the same time, each on its own connection.
const CONNECTIONS: usize = 6;
/// Maximum time for a controller to start and to complete a rollout.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum time for a controller to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A run of one product.
pub(crate) struct ProductRun<'a> {
    pub(crate) options: &'a ScaleOptions,
    pub(crate) product: Product,
    pub(crate) kind: ProductKind,
    pub(crate) api: Api,
    pub(crate) fleet: Fleet,
    /// The running controllers with their accounts.
    pub(crate) controllers: Vec<(&'static str, Process)>,
    pub(crate) audit: AuditLog,
    /// Number of existing rollouts, without probes.
    pub(crate) existing: u32,
    /// When the time for all products is used up.
    pub(crate) end: Instant,
    /// Number of requests that were sent since the phase began.
    pub(crate) sent: AtomicUsize,
    plane: ControlPlane,
    program: PathBuf,
    release: u32,
}

/// The state at the beginning of a phase.
pub(crate) struct PhaseBegin {
    pub(crate) at: Instant,
    cpu: BTreeMap<String, f64>,
    machine: f64,
    audit: u64,
}

/// When requests were sent, by rollout.
pub(crate) type SentTimes = HashMap<String, Sent>;

/// When a request was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    /// Seconds since the Unix epoch.
    pub(crate) unix: f64,
}

impl Sent {
    pub(crate) fn now() -> Self {
        Self {
            at: Instant::now(),
            unix: unix_seconds(Timestamp::now()),
        }
    }
}

/// What the driver does with a rollout.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Create it.
    Create,
    /// Change its template to a release.
    Update(u32),
}

impl<'a> ProductRun<'a> {
    /// Starts a control plane and one controller.
    pub(crate) async fn start(
        options: &'a ScaleOptions,
        tools: &Tools,
        product: Product,
        end: Instant,
    ) -> Result<Self> {
        let kind = product.kind();
        let folder = options.checkout.join(".local/scale").join(product.name());
        let (plane, api) = ControlPlane::start(tools, &folder, tools.definitions(kind)).await?;
        let program = match kind.program() {
            Some(name) => tools.program(name)?.clone(),
            None => options.controller.clone(),
        };
        let mut bench = Self {
            options,
            product,
            kind,
            fleet: Fleet::watch(api.client(), kind),
            audit: plane.audit_log(),
            api,
            controllers: Vec::new(),
            existing: 0,
            end,
            sent: AtomicUsize::new(0),
            plane,
            program,
            release: 0,
        };
        bench.start_controller(CONTROLLERS[0])?;
        bench.warm_up().await?;
        Ok(bench)
    }

    /// Waits until the controller is the leader and has completed a rollout, which is deleted.
    async fn warm_up(&mut self) -> Result<()> {
        let name = "warm-up";
        self.send(name, Work::Create).await?;
        let deadline = Instant::now() + WARM_UP_TIMEOUT;
        if self.fleet.wait_for(name, deadline).await.is_none() {
            self.check()?;
            let seconds = WARM_UP_TIMEOUT.as_secs();
            bail!("the first rollout was not complete within {seconds} s");
        }
        self.kind.delete(&self.api, name).await?;
        sleep(self.options.settle).await;
        Ok(())
    }

    /// Stops everything.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop_controllers().await?;
        let folder = self.plane.folder().to_owned();
        self.plane.stop().await?;
        if !self.options.keep {
            std::fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    pub(crate) fn start_controller(&mut self, account: &'static str) -> Result<()> {
        let kubeconfig = self.plane.kubeconfig(account);
        let start = ControllerStart {
            account,
            kubeconfig: &kubeconfig,
            ports: [unused_port()?, unused_port()?],
        };
        let (arguments, env) = self.product.arguments(&start);
        let process = Process::start(ProcessCommand {
            name: account,
            program: &self.program,
            arguments,
            env,
            log: self.plane.log(account),
            folder: self.plane.folder(),
        })?;
        self.controllers.push((account, process));
        Ok(())
    }

    pub(crate) async fn stop_controllers(&mut self) -> Result<()> {
        for (_, process) in self.controllers.drain(..) {
            process.stop(STOP_TIMEOUT).await?;
        }
        Ok(())
    }

    /// A new release, which no rollout has had.
    pub(crate) fn next_release(&mut self) -> u32 {
        self.release += 1;
        self.release
    }

    /// Maximum time of a phase that changes this number of rollouts: 2 minutes, and 0.6 s for each,
    /// but not beyond the time for all products.
    pub(crate) fn limit(&self, changed: u32) -> Duration {
        let limit = Duration::from_secs(120) + Duration::from_millis(600) * changed;
        limit.min(self.end.saturating_duration_since(Instant::now()))
    }

    /// Begins the measurement of a phase.
    pub(crate) fn begin(&mut self) -> Result<PhaseBegin> {
        self.check()?;
        self.sent.store(0, Ordering::Relaxed);
        for (_, process) in &self.controllers {
            process.reset_peak();
        }
        Ok(PhaseBegin {
            at: Instant::now(),
            cpu: self.cpu()?,
            machine: machine_cpu_seconds()?,
            audit: self.audit.end(),
        })
    }

    /// The use of the machine since the beginning of a phase.
    pub(crate) fn usage(&mut self, begin: &PhaseBegin) -> Result<Usage> {
        self.check()?;
        let mut cpu_seconds = self.cpu()?;
        for (process, seconds) in &mut cpu_seconds {
            // A controller that was started during the phase used nothing before.
            *seconds -= begin.cpu.get(process).copied().unwrap_or_default();
        }
        let ours: f64 = cpu_seconds.values().sum();
        let machine = machine_cpu_seconds()? - begin.machine;
        cpu_seconds.insert("other".into(), (machine - ours).max(0.0));
        let mut usage = Usage {
            cpu_seconds,
            ..Usage::default()
        };
        for (_, process) in &self.controllers {
            let (now, peak) = process.memory_mib()?;
            usage.rss_mib = usage.rss_mib.max(now);
            usage.peak_rss_mib = usage.peak_rss_mib.max(peak);
        }
        Ok(usage)
    }

    /// The requests of the controllers since the beginning of a phase.
    pub(crate) fn requests(
        &self,
        begin: &PhaseBegin,
        sent: &SentTimes,
        user: Option<&str>,
    ) -> Result<AuditReport> {
        let since = sent.iter().map(|(name, sent)| (name.clone(), sent.unix));
        let query = AuditQuery {
            resource: self.kind.resource(),
            since: since.collect(),
            user,
        };
        self.audit.read(begin.audit, &query)
    }

    /// Does the work with all named rollouts as fast as the connections can, and waits until they
    /// are complete, or until the limit.
    pub(crate) async fn run_and_wait(
        &mut self,
        phase: Phase,
        names: &[String],
        work: Work,
    ) -> Result<PhaseResult> {
        let changed = u32::try_from(names.len())?;
        let begin = self.begin()?;
        let limit = self.limit(changed);
        let sent = self.send_all(names, work).await?;
        let driver_seconds = begin.at.elapsed().as_secs_f64();
        self.fleet.wait(begin.at + limit).await?;
        let mut result = PhaseResult {
            phase,
            changed,
            limit_seconds: limit.as_secs_f64(),
            driver_seconds,
            ..PhaseResult::default()
        };
        self.finish(&mut result, &begin, &sent).await?;
        Ok(result)
    }

    /// Fills in the figures of a phase that changes rollouts. Waits the settle time for the last
    /// writes.
    pub(crate) async fn finish(
        &mut self,
        result: &mut PhaseResult,
        begin: &PhaseBegin,
        sent: &SentTimes,
    ) -> Result<()> {
        result.usage = self.usage(begin)?;
        let mut last = begin.at;
        let mut seconds = Vec::new();
        for (name, sent) in sent {
            match self.fleet.reached(name) {
                Some(reached) => {
                    last = last.max(reached);
                    seconds.push(reached.duration_since(sent.at).as_secs_f64());
                }
                None => result.unfinished += 1,
            }
        }
        result.wall_seconds = last.duration_since(begin.at).as_secs_f64();
        result.done = Summary::from_values(seconds);
        sleep(self.options.settle).await;
        let report = self.requests(begin, sent, None)?;
        let waits = report.first_writes.iter().filter_map(|(name, first)| {
            let sent = sent.get(name)?;
            Some(first - sent.unix)
        });
        result.first_write = Summary::from_values(waits.collect());
        result.requests = report.requests;
        result.rollouts = self.existing;
        Ok(())
    }

    /// Sends the requests for all named rollouts and expects that each becomes complete.
    pub(crate) async fn send_all(&self, names: &[String], work: Work) -> Result<SentTimes> {
        let mut requests = futures::stream::iter(names)
            .map(|name| async move {
                let sent = self.send(name, work).await?;
                anyhow::Ok((name.clone(), sent))
            })
            .buffer_unordered(CONNECTIONS);
        let mut sent = SentTimes::new();
        while let Some(answer) = requests.next().await {
            let (name, at) = answer?;
            sent.insert(name, at);
        }
        Ok(sent)
    }

    /// Sends the request for one rollout and expects that it becomes complete.
    pub(crate) async fn send(&self, name: &str, work: Work) -> Result<Sent> {
        let not = self.fleet.observation(name).complete;
        self.fleet.expect(name, Goal::Complete { not });
        let sent = Sent::now();
        match work {
            Work::Create => self.kind.create(&self.api, name, false).await?,
            Work::Update(release) => self.kind.update(&self.api, name, release).await?,
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(sent)
    }

    /// Waits until `time` or the end of the time for all products.
    pub(crate) async fn rest(&self, time: Duration) {
        sleep_until(self.end.min(Instant::now() + time)).await;
    }

    fn check(&mut self) -> Result<()> {
        self.plane.check()?;
        let mut controllers = self.controllers.iter_mut();
        controllers.try_for_each(|(_, process)| process.check())
    }

    fn cpu(&self) -> Result<BTreeMap<String, f64>> {
        let mut cpu = BTreeMap::new();
        for process in self.plane.processes() {
            cpu.insert(process.name.to_owned(), process.cpu_seconds()?);
        }
        let mut controllers = 0.0;
        for (_, process) in &self.controllers {
            controllers += process.cpu_seconds()?;
        }
        cpu.insert("controller".into(), controllers);
        cpu.insert("driver".into(), own_cpu_seconds()?);
        Ok(cpu)
    }
}

/// The names of the rollouts from `first`, counted from 0.
pub(crate) fn names(first: u32, count: u32) -> Vec<String> {
    (first..first + count)
        .map(|number| format!("r{number:05}"))
        .collect()
}

/// The first name, for phases that change one rollout.
pub(crate) fn first_name(bench: &ProductRun<'_>) -> Result<String> {
    let names = names(0, bench.existing.min(1));
    names.into_iter().next().context("there is no rollout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_continue_after_the_existing_ones() {
        assert_eq!(names(9, 2), ["r00009", "r00010"]);
        assert!(names(3, 0).is_empty());
    }
}
