//! Plans for the tests.

use std::collections::BTreeSet;
use std::time::Duration;

use serin_core::plan::{
    Amount, Analysis, ArmBinding, Canary, Exposure, Pace, Plan, RouteKind, RouteRef, Routing, Step,
    Strategy, Workload,
};
use serin_core::units::{Revision, Weight};

pub fn rev(name: &str) -> Revision {
    Revision::new(name)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn weight(percent: u32) -> Step {
    Step::SetWeight(Weight::percent(percent))
}

pub fn wait(seconds: u64) -> Step {
    Step::Pause(Some(secs(seconds)))
}

pub fn plan(replicas: u32, steps: Vec<Step>) -> Plan {
    let route = RouteRef {
        kind: RouteKind::HttpRoute,
        name: "shop".into(),
        rule: None,
    };
    Plan {
        replicas,
        progress_deadline: secs(600),
        progress_deadline_abort: true,
        revision_history_limit: 3,
        rollback_window: 0,
        paused: false,
        workload: Workload::Owned,
        exposure: Exposure::Weighted(Routing {
            binding: ArmBinding::services("shop", "shop-canary"),
            routes: vec![route],
            settle: secs(2),
            unverified_after: secs(10),
        }),
        strategy: Strategy::Canary(Canary {
            max_surge: Amount::Percent(25),
            max_unavailable: Amount::Percent(25),
            scale_down_delay: secs(30),
            abort_scale_down_delay: secs(30),
            dynamic_stable_scale: false,
            min_pods_per_replica_set: 0,
            replica_progress_threshold: None,
            pace: Pace::Steps(steps),
            analysis: None,
            pod_restart_limit: 2,
        }),
    }
}

pub fn unrouted(replicas: u32, steps: Vec<Step>, surge: u32, unavailable: u32) -> Plan {
    let mut plan = plan(replicas, steps);
    plan.exposure = Exposure::ReplicaRatio;
    edit(plan, |canary| {
        canary.max_surge = Amount::Pods(surge);
        canary.max_unavailable = Amount::Pods(unavailable);
    })
}

pub fn edit(mut plan: Plan, change: impl FnOnce(&mut Canary)) -> Plan {
    let Strategy::Canary(canary) = &mut plan.strategy;
    change(canary);
    plan
}

pub fn analysed(plan: Plan) -> Plan {
    edit(plan, |canary| {
        canary.analysis = Some(Analysis {
            max_duration: secs(3600),
            warm_up: secs(10),
            checks: BTreeSet::new(),
            bake: None,
            baseline_pods: None,
        });
    })
}
