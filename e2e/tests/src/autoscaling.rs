//! The HorizontalPodAutoscaler of the controller manager, on the CPU usage of metrics-server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use serin_load::LoadHandle;

use crate::cases::scaling::with_long_drain;
use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::metrics_server;
use crate::note;
use crate::shop::{
    Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight,
};

/// CPU time of a request.
const CPU_US: u32 = 5_000;
/// CPU usage that the autoscaler keeps a pod at, in milli-CPUs: as many as it requests.
const TARGET_MILLICPU: f64 = 50.0;
const TARGET_PERCENT: u32 = 100;
const FEWEST: u32 = 2;
const MOST: u32 = 16;
/// Requests per second all the time, and in addition at the peak.
const BASE_LOAD: u32 = 40;
const PEAK_LOAD: u32 = 50;
/// Time from a change of the load until the fleet follows: the window of the metrics, the period of
/// the autoscaler, its stabilization, and the start of pods.
const REACTION: Duration = Duration::from_secs(120);
/// Relative difference that the autoscaler tolerates, and CPU usage beyond that of `CPU_US`: a request
/// costs more than that, and so do probes and scrapes.
const TOLERANCE: f64 = 0.1;
const OVERHEAD: f64 = 0.3;
/// Samples within which `status.replicas` equals `spec.replicas` after a change of it.
const SETTLING_SAMPLES: usize = 15;

/// One observation.
struct Sample {
    at: Instant,
    replicas: i32,
    reported: i32,
    pods: usize,
    load: u32,
}

/// The service with its load, and what was observed of its fleet.
struct Fleet<'a> {
    shop: &'a Shop,
    base: LoadHandle,
    peak: Option<LoadHandle>,
    samples: Vec<Sample>,
}

impl Fleet<'_> {
    fn load(&self) -> u32 {
        BASE_LOAD + if self.peak.is_some() { PEAK_LOAD } else { 0 }
    }

    fn start_peak(&mut self) -> Result<()> {
        self.peak = Some(self.shop.start_load(PEAK_LOAD)?);
        Ok(())
    }

    async fn end_peak(&mut self) -> Result<()> {
        let peak = self.peak.take().context("no peak is under way")?;
        stop_and_ensure_no_loss(peak).await?;
        Ok(())
    }

    async fn sample(&mut self) -> Result<()> {
        let rollout = self.shop.rollout().await?;
        let pods = self.shop.pods().await?;
        let active = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        self.samples.push(Sample {
            at: Instant::now(),
            replicas: rollout.spec.replicas.unwrap_or(1),
            reported: rollout.status.map_or(0, |status| status.replicas),
            pods: active.count(),
            load: self.load(),
        });
        self.ensure_within_band()
    }

    /// `spec.replicas` is between what the lowest and the highest load of the last minutes ask for.
    fn ensure_within_band(&self) -> Result<()> {
        let Some(last) = self.samples.last() else {
            return Ok(());
        };
        let recent = self.samples.iter().rev();
        let recent = recent.take_while(|sample| last.at - sample.at <= REACTION);
        let loads: Vec<u32> = recent.map(|sample| sample.load).collect();
        let lowest = loads.iter().copied().min().unwrap_or(0);
        let highest = loads.iter().copied().max().unwrap_or(0);
        let asked = |load: u32| f64::from(load) * f64::from(CPU_US) / 1_000.0 / TARGET_MILLICPU;
        let from = (asked(lowest) / (1.0 + TOLERANCE))
            .floor()
            .max(f64::from(FEWEST));
        let to = (asked(highest) * (1.0 + OVERHEAD) / (1.0 - TOLERANCE)).ceil();
        let replicas = f64::from(last.replicas);
        ensure!(
            replicas >= from && replicas <= to,
            "{replicas} replicas and {} pods, although {lowest} to {highest} requests per second \
             ask for {from} to {to}",
            last.pods
        );
        Ok(())
    }

    /// Observes the fleet for some time.
    async fn observe(&mut self, what: &str, time: Duration) -> Result<()> {
        let (begin, first) = (Instant::now(), self.samples.len());
        while begin.elapsed() < time {
            self.sample().await.with_context(|| what.to_owned())?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let samples = &self.samples[first..];
        let replicas = || samples.iter().map(|sample| sample.replicas);
        let pods = || samples.iter().map(|sample| sample.pods);
        note!(
            "{what}: {} requests/s, replicas {:?} to {:?}, pods {:?} to {:?}",
            self.load(),
            replicas().min(),
            replicas().max(),
            pods().min(),
            pods().max()
        );
        let last = samples.last().context("no sample")?;
        let mut settled = samples.iter().rev().take(SETTLING_SAMPLES);
        ensure!(
            settled.any(|sample| sample.reported == sample.replicas),
            "{what}: spec.replicas is {} and status.replicas is {}",
            last.replicas,
            last.reported
        );
        Ok(())
    }

    /// Observes the fleet until it has as many replicas as the load asks for.
    async fn observe_until(&mut self, what: &str, from: i32, to: i32) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.sample().await.with_context(|| what.to_owned())?;
            let replicas = self.samples.last().map_or(0, |sample| sample.replicas);
            if (from..=to).contains(&replicas) {
                let seconds = begin.elapsed().as_secs();
                note!("{what}: {replicas} replicas after {seconds} s");
                return Ok(());
            }
            ensure!(
                begin.elapsed() < REACTION,
                "{what}: still {replicas} replicas after {REACTION:?}"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn rollout(shop: &Shop, version: &str) -> Value {
    let steps = json!([
        {"setWeight": 20}, {"pause": {"duration": "30s"}}, {"setWeight": 50}, {"pause": {}},
    ]);
    let options = RolloutOptions {
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    let release = SampleRelease::with_fault(version, "CPU_US", &CPU_US.to_string());
    let mut rollout = with_long_drain(manifests::rollout(&shop.name, &options, &release));
    if let Some(spec) = rollout["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    rollout
}

fn autoscaler(shop: &Shop) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": shop.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": shop.name},
            "minReplicas": FEWEST, "maxReplicas": MOST,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": TARGET_PERCENT},
            }}],
            // A wrong recommendation must show within the case.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 30}},
        },
    })
}

/// # Errors
/// If an expectation is not met.
pub async fn an_autoscaler_on_cpu_follows_the_load_through_a_release_and_an_abort(
    env: &Env,
) -> Result<()> {
    if env.cluster.is_none() {
        note!("skipped: metrics-server is installed in the local cluster only");
        return Ok(());
    }
    metrics_server::install(env).await?;
    let ended = Box::pin(run(env)).await;
    // Without its server the API would prevent the deletion of namespaces.
    metrics_server::remove(env).await?;
    ended
}

async fn run(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-autoscaler-cpu").await?;
    shop.apply(rollout(&shop, "v1")).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.scale(FEWEST).await?;
    shop.wait_until_answering().await?;
    let base = shop.start_load(BASE_LOAD)?;
    shop.apply(autoscaler(&shop)).await?;
    let mut fleet = Fleet {
        shop: &shop,
        base,
        peak: None,
        samples: Vec::new(),
    };
    wait_for_first_scale(&shop).await?;
    fleet
        .observe("before a release", Duration::from_secs(45))
        .await?;
    promote_under_varying_load(&mut fleet).await?;
    abort_under_varying_load(&mut fleet).await?;
    let Fleet { base, samples, .. } = fleet;
    stop_and_ensure_no_loss(base).await?;
    let pods = samples.iter().map(|sample| sample.pods).max();
    note!("{} samples, at most {pods:?} pods", samples.len());
    shop.delete().await
}

/// Waits until the autoscaler has metrics, and has scaled to the load.
async fn wait_for_first_scale(shop: &Shop) -> Result<()> {
    shop.wait_until(
        "the autoscaler has scaled to the load",
        Duration::from_secs(240),
        |rollout| rollout.spec.replicas.is_some_and(|replicas| replicas >= 4),
    )
    .await?;
    Ok(())
}

async fn promote_under_varying_load(fleet: &mut Fleet<'_>) -> Result<()> {
    let shop = fleet.shop;
    shop.apply(rollout(shop, "v2")).await?;
    fleet
        .observe("a canary at 20 %", Duration::from_secs(30))
        .await?;
    wait_at_50(shop).await?;
    fleet
        .observe("a canary at 50 %", Duration::from_secs(75))
        .await?;
    fleet.start_peak()?;
    fleet.observe_until("a peak at 50 %", 9, 13).await?;
    fleet
        .observe("the peak at 50 %", Duration::from_secs(45))
        .await?;
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    fleet
        .observe("a promotion at the peak", Duration::from_secs(75))
        .await?;
    ensure!(is_stable(&shop.rollout().await?), "v2 is not stable");
    Ok(())
}

async fn abort_under_varying_load(fleet: &mut Fleet<'_>) -> Result<()> {
    let shop = fleet.shop;
    shop.apply(rollout(shop, "v3")).await?;
    wait_at_50(shop).await?;
    fleet
        .observe("another canary at 50 %", Duration::from_secs(45))
        .await?;
    fleet.end_peak().await?;
    let (done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(done, "{message}");
    fleet
        .observe_until("an abort as the peak ends", 4, 6)
        .await?;
    fleet
        .observe("after the abort", Duration::from_secs(60))
        .await?;
    ensure!(is_aborted(&shop.rollout().await?), "v3 is not aborted");
    Ok(())
}

async fn wait_at_50(shop: &Shop) -> Result<()> {
    shop.wait_until_unless_aborted("paused at 50 %", Duration::from_secs(120), |rollout| {
        is_paused(rollout) && verified_weight(rollout) == Some(50.0)
    })
    .await?;
    Ok(())
}
