//! One edit of a RolloutPolicy concerns many Rollouts.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use axum::http::Request;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::Rollout;

use crate::controller::SHARED_PORT;
use crate::env::Env;
use crate::guardrails::{
    apply_policy, apply_to_cluster, message_of, policy, remove_from_cluster, short_rollout,
};
use crate::note;
use crate::shop::{Shop, eventually, is_stable};

const PATIENCE: Duration = Duration::from_secs(120);
const MANY: usize = 50;
/// Time without a write after which the controller has nothing left to do.
const QUIET: Duration = Duration::from_secs(5);
/// Time to collect changes, 50 Rollouts at 50 per second, and a busy machine.
const SPREAD: Duration = Duration::from_secs(15);
/// Writes for one release of a Rollout without pods: its ReplicaSets, its status and its Events.
const WRITES_PER_RELEASE: u64 = 30;

/// # Errors
/// If an expectation is not met.
pub async fn one_edit_of_guardrails_reaches_fifty_rollouts_without_a_burst(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-many-rollouts", "shop").await?;
    let policy = many_policy(&shop, "Warn");
    remove_from_cluster(env, &policy).await?;
    let checked = Box::pin(check_many(env, &shop)).await;
    remove_from_cluster(env, &policy).await?;
    checked?;
    shop.delete().await
}

fn many_policy(shop: &Shop, mode: &str) -> Value {
    let guardrails = json!({"priority": {"mode": mode}, "networkPolicy": {"mode": mode}});
    policy(
        "serin-e2e-many",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

async fn check_many(env: &Env, shop: &Shop) -> Result<()> {
    let apply_all = async |version: &str| -> Result<()> {
        for index in 0..MANY {
            let name = format!("many-{index}");
            shop.apply(short_rollout(&name, 0, version)).await?;
        }
        Ok(())
    };
    apply_all("v1").await?;
    wait_for_all(shop, "v1 is stable", is_stable).await?;

    wait_until_quiet(env).await?;
    // An edit that changes nothing for stable Rollouts: each is resolved, and nothing is written.
    let before = Counters::read(env).await?;
    let started = Instant::now();
    apply_policy(env, &many_policy(shop, "Enforce")).await?;
    eventually("every Rollout is resolved again", SPREAD, async || {
        let resolved = Counters::read(env).await?.resolutions - before.resolutions;
        ensure!(resolved >= MANY as u64, "{resolved} of {MANY}");
        Ok(true)
    })
    .await?;
    let took = started.elapsed();
    let after = Counters::read(env).await?;
    note!(
        "an edit reached {MANY} stable Rollouts in {took:.1?}: {} resolutions, {} writes, {} lists",
        after.resolutions - before.resolutions,
        after.writes - before.writes,
        after.network_policy_lists - before.network_policy_lists,
    );
    // The status of the policy itself is written.
    ensure!(
        after.writes - before.writes <= 2,
        "{} writes",
        after.writes - before.writes
    );
    ensure!(after.network_policy_lists == before.network_policy_lists);

    // All of them wait for a guardrail, and an edit lets all of them go on.
    apply_all("v2").await?;
    let is_held = |rollout: &Rollout| message_of(rollout, HoldCode::PriorityMissing).is_ok();
    wait_for_all(shop, "v2 is held", is_held).await?;
    let before = Counters::read(env).await?;
    let started = Instant::now();
    apply_to_cluster(env, &many_policy(shop, "Warn")).await?;
    let peak = Box::pin(peak_while(
        env,
        wait_for_all(shop, "v2 is stable", is_stable),
    ))
    .await?;
    let took = started.elapsed();
    let after = Counters::read(env).await?;
    let writes = after.writes - before.writes;
    note!(
        "an edit released {MANY} Rollouts in {took:.1?}: {writes} writes, at most {peak} per second, \
         {} lists of NetworkPolicies",
        after.network_policy_lists - before.network_policy_lists,
    );
    ensure!(
        writes <= MANY as u64 * WRITES_PER_RELEASE,
        "{writes} writes"
    );
    // 50 Rollouts per second at most, each with a few writes.
    ensure!(peak <= 400, "{peak} writes in one second");
    // The Rollouts of a namespace share a list for 5 s.
    let lists = after.network_policy_lists - before.network_policy_lists;
    ensure!(
        lists <= 2 + took.as_secs() / 2,
        "{lists} lists of NetworkPolicies"
    );
    Ok(())
}

/// Waits until the controller has written everything, its Events included.
async fn wait_until_quiet(env: &Env) -> Result<()> {
    let seen = std::cell::Cell::new((0, Instant::now()));
    eventually("the controller writes nothing", PATIENCE, async || {
        let writes = Counters::read(env).await?.writes;
        if seen.get().0 != writes {
            seen.set((writes, Instant::now()));
        }
        Ok(seen.get().1.elapsed() > QUIET)
    })
    .await
}

async fn wait_for_all(shop: &Shop, what: &str, is_met: impl Fn(&Rollout) -> bool) -> Result<()> {
    let rollouts = shop.api::<Rollout>();
    shop.eventually(what, PATIENCE, async || {
        let list = rollouts.list(&ListParams::default()).await?;
        let missing: Vec<String> = list
            .iter()
            .filter(|rollout| !is_met(rollout))
            .map(ResourceExt::name_any)
            .collect();
        ensure!(
            list.items.len() == MANY && missing.is_empty(),
            "not yet: {missing:?}"
        );
        Ok(true)
    })
    .await
}

/// The largest number of writes in one second until a future completes.
async fn peak_while(env: &Env, until: impl Future<Output = Result<()>>) -> Result<u64> {
    let mut until = pin!(until);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let (mut peak, mut before) = (0, Counters::read(env).await?.writes);
    loop {
        tokio::select! {
            done = &mut until => return done.map(|()| peak),
            _ = ticks.tick() => {
                let writes = Counters::read(env).await?.writes;
                peak = peak.max(writes - before);
                before = writes;
            }
        }
    }
}

/// What the controller and the API server have counted.
#[derive(Clone, Copy, Debug)]
struct Counters {
    /// Effective specs that the controller resolved.
    resolutions: u64,
    /// Writes of the controller, without those of its Lease.
    writes: u64,
    /// Lists of NetworkPolicies that the API server answered. Watches do not count.
    network_policy_lists: u64,
}

impl Counters {
    async fn read(env: &Env) -> Result<Self> {
        let url = format!("http://127.0.0.1:{SHARED_PORT}/metrics");
        let controller = reqwest::get(url).await?.text().await?;
        let request = Request::get("/metrics").body(Vec::new())?;
        let api_server = env.client.request_text(request).await?;
        Ok(Self {
            resolutions: sum(&controller, "serin_policy_resolutions_total", &[]),
            writes: sum(&controller, "serin_api_writes_total", &[])
                - sum(&controller, "serin_api_writes_total", &["kind=\"Lease\""]),
            network_policy_lists: sum(
                &api_server,
                "apiserver_request_total",
                &["resource=\"networkpolicies\"", "verb=\"LIST\""],
            ),
        })
    }
}

/// The sum of the series of a counter that have these labels.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    let of_name = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let values = of_name.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counters of a test are small and not negative"
    )]
    let sum = values.sum::<f64>() as u64;
    sum
}
