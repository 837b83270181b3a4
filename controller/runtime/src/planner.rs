//! Converts specs into plans: once for each generation, outside of the runtime's worker threads,
//! and with a deadline.
//!
//! The author of a spec also writes its PromQL and CEL expressions, and the conversion parses them.
//! Whatever that costs, it must not block a thread that reconciles other Rollouts. A conversion
//! that exceeds the deadline is a problem of the spec. Its thread cannot be stopped, so the number
//! of these threads is limited.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serin_core::plan::Plan;
use serin_crds::RolloutSpec;
use serin_crds::plan::plan_hash;

use crate::cluster_cache::RolloutObject;
use crate::journal::Attempt;
use crate::revision;

/// Stack size of a conversion, in bytes. Parsers recurse into nested expressions, and nothing
/// catches an exhausted stack.
const STACK_BYTES: usize = 8 << 20;
/// Time until a plan that was not available is requested again.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Limits of the conversions.
#[derive(Clone, Copy, Debug)]
pub struct PlannerLimits {
    /// Maximum duration of a conversion, and maximum time to wait for a thread. Conversions take
    /// milliseconds.
    pub deadline: Duration,
    /// Maximum number of conversions at the same time. Conversions that exceed the deadline count
    /// until they end.
    pub max_threads: usize,
}

impl Default for PlannerLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            max_threads: 4,
        }
    }
}

/// What one generation of a spec means.
#[derive(Debug)]
pub struct PlannedSpec {
    /// The plan, or what is invalid in the spec.
    pub plan: Result<Plan, String>,
    /// The hash of the plan. Empty if there is none.
    pub plan_hash: String,
    /// The hash of the pod template as the user wrote it.
    pub template_hash: String,
}

/// Why there is no plan yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The conversion takes too long.
    #[error(
        "the spec takes longer than {} ms to check; simplify the queries and conditions in \
         spec.analysis",
        .0.as_millis()
    )]
    Deadline(Duration),
    /// All threads are in use.
    #[error(
        "the spec is not checked yet, because the specs of other Rollouts take too long to check; \
         it is retried"
    )]
    Busy,
}

type Convert = dyn Fn(&RolloutSpec, &str) -> Result<Plan, String> + Send + Sync;

/// Converts specs into plans.
#[derive(Clone)]
pub struct Planner {
    convert: Arc<Convert>,
    limits: PlannerLimits,
    threads: Arc<Threads>,
}

impl Default for Planner {
    fn default() -> Self {
        Self::new(PlannerLimits::default(), |spec, name| {
            spec.plan(name).map_err(|problems| problems.to_string())
        })
    }
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The conversion of the latest generation of one Rollout.
#[derive(Debug, Default)]
pub struct PlanCache(Option<(SpecVersion, Arc<Conversion>)>);

/// The generation, the version of the template if it is that of a Deployment, and the version of
/// what policies contribute.
type SpecVersion = (i64, Option<String>, Option<u64>);

impl Planner {
    /// A planner with a custom conversion from a spec and the name of its Rollout.
    pub fn new(
        limits: PlannerLimits,
        convert: impl Fn(&RolloutSpec, &str) -> Result<Plan, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            convert: Arc::new(convert),
            limits,
            threads: Arc::default(),
        }
    }

    /// The plan of a spec. It is made at the first call for a generation and then taken from
    /// `cache`. `attempt` remains recorded until the conversion has ended.
    ///
    /// # Errors
    /// The conversion has not ended within the deadline, or has not begun. A later call returns the
    /// plan if the conversion has ended by then.
    pub async fn plan(
        &self,
        rollout: &Arc<RolloutObject>,
        cache: &mut PlanCache,
        attempt: Option<&Attempt>,
    ) -> Result<Arc<PlannedSpec>, PlanError> {
        let version = (
            rollout.generation(),
            rollout.template_version.clone(),
            rollout.policy_version(),
        );
        if let Some((planned, conversion)) = &cache.0
            && *planned == version
        {
            return conversion
                .result()
                .ok_or(PlanError::Deadline(self.limits.deadline));
        }
        let (planner, rollout) = (self.clone(), Arc::clone(rollout));
        let attempt = attempt.cloned();
        // The deadline is real time, so that tests with virtual time wait for the result.
        let run = tokio::task::spawn_blocking(move || planner.run(rollout, attempt));
        // The task fails only if the runtime shuts down.
        let conversion = run.await.unwrap_or(Err(PlanError::Busy))?;
        let result = conversion.result();
        cache.0 = Some((version, conversion));
        result.ok_or(PlanError::Deadline(self.limits.deadline))
    }

    /// Starts a conversion and waits until it has ended or the deadline has passed.
    fn run(
        &self,
        rollout: Arc<RolloutObject>,
        attempt: Option<Attempt>,
    ) -> Result<Arc<Conversion>, PlanError> {
        let permit = Permit::acquire(&self.threads, self.limits).ok_or(PlanError::Busy)?;
        let conversion = Arc::new(Conversion::default());
        let (shared, convert) = (Arc::clone(&conversion), Arc::clone(&self.convert));
        thread::Builder::new()
            .name("planner".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let planned = convert_spec(&rollout, &*convert);
                drop((attempt, permit));
                shared.complete(planned);
            })
            .map_err(|error| {
                tracing::warn!(%error, "cannot start a thread to check a spec");
                PlanError::Busy
            })?;
        conversion.wait(self.limits.deadline);
        Ok(conversion)
    }
}

fn convert_spec(rollout: &RolloutObject, convert: &Convert) -> PlannedSpec {
    let spec = match &rollout.spec {
        Ok(spec) => spec,
        Err(problem) => {
            return PlannedSpec {
                plan: Err(problem.clone()),
                plan_hash: String::new(),
                template_hash: String::new(),
            };
        }
    };
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let convert = || match rollout.policy_problem() {
        Some(problem) => Err(problem.message.clone()),
        None => convert(spec, name),
    };
    let plan = catch_unwind(AssertUnwindSafe(convert));
    let plan = plan.unwrap_or_else(|panic| {
        let text = panic_message(panic.as_ref());
        tracing::error!(rollout = name, cause = %text, "internal error while checking a spec");
        Err(format!("internal error while checking the spec: {text}"))
    });
    PlannedSpec {
        plan_hash: plan.as_ref().map(plan_hash).unwrap_or_default(),
        plan,
        template_hash: revision::template_hash(spec),
    }
}

/// The message of a caught panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

/// A conversion that is in progress or has ended.
#[derive(Debug, Default)]
struct Conversion {
    planned: Mutex<Option<Arc<PlannedSpec>>>,
    ended: Condvar,
}

impl Conversion {
    fn complete(&self, planned: PlannedSpec) {
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(planned));
        self.ended.notify_all();
    }

    fn result(&self) -> Option<Arc<PlannedSpec>> {
        self.planned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn wait(&self, limit: Duration) {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .ended
            .wait_timeout_while(planned, limit, |planned| planned.is_none());
        drop(waited);
    }
}

/// The number of running conversions.
#[derive(Debug, Default)]
struct Threads {
    running: Mutex<usize>,
    ended: Condvar,
}

/// Permission to run one conversion.
#[derive(Debug)]
struct Permit(Arc<Threads>);

impl Permit {
    /// Waits for a permit. `None` if there is none within the deadline.
    fn acquire(threads: &Arc<Threads>, limits: PlannerLimits) -> Option<Self> {
        let running = threads
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all_in_use = |running: &mut usize| *running >= limits.max_threads;
        let (mut running, _) = threads
            .ended
            .wait_timeout_while(running, limits.deadline, all_in_use)
            .unwrap_or_else(PoisonError::into_inner);
        if *running >= limits.max_threads {
            return None;
        }
        *running += 1;
        Some(Self(Arc::clone(threads)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *running = running.saturating_sub(1);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use serde_json::json;

    use super::*;

    fn rollout(name: &str, generation: i64) -> Arc<RolloutObject> {
        let object = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": generation},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": []}},
                "strategy": {"canary": {}},
            },
        });
        Arc::new(RolloutObject::from_json(object).unwrap())
    }

    fn convert(spec: &RolloutSpec, name: &str) -> Result<Plan, String> {
        spec.plan(name).map_err(|problems| problems.to_string())
    }

    /// One thread, and a deadline that a busy machine does not exceed.
    const ONE_THREAD: PlannerLimits = PlannerLimits {
        deadline: Duration::from_secs(60),
        max_threads: 1,
    };

    #[tokio::test]
    async fn a_plan_is_made_once_for_each_generation() {
        let conversions = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&conversions);
        let planner = Planner::new(PlannerLimits::default(), move |spec, name| {
            counter.fetch_add(1, Ordering::SeqCst);
            convert(spec, name)
        });
        let mut cache = PlanCache::default();
        for (generation, expected) in [(1, 1), (1, 1), (2, 2), (2, 2)] {
            let result = planner
                .plan(&rollout("shop", generation), &mut cache, None)
                .await;
            assert_eq!(result.unwrap().plan.as_ref().unwrap().replicas, 1);
            assert_eq!(conversions.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test]
    async fn endless_conversions_exceed_the_deadline_and_are_limited_in_number() {
        let (release, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let limits = PlannerLimits {
            deadline: Duration::from_millis(400),
            ..ONE_THREAD
        };
        let planner = Planner::new(limits, move |spec, name| {
            if name == "endless" {
                let _ = wait.lock().unwrap().recv();
            }
            convert(spec, name)
        });
        let (mut endless, mut other) = (PlanCache::default(), PlanCache::default());
        let deadline = PlanError::Deadline(limits.deadline);
        for _ in 0..2 {
            let result = planner
                .plan(&rollout("endless", 1), &mut endless, None)
                .await;
            assert_eq!(result.unwrap_err(), deadline);
        }
        let refused = planner.plan(&rollout("other", 1), &mut other, None).await;
        assert_eq!(refused.unwrap_err(), PlanError::Busy);
        release.send(()).unwrap();
        // The result of a late conversion is used.
        let conversion = Arc::clone(&endless.0.as_ref().unwrap().1);
        conversion.wait(Duration::from_secs(60));
        assert!(
            planner
                .plan(&rollout("endless", 1), &mut endless, None)
                .await
                .is_ok()
        );
        // The short deadline can pass again on a busy machine.
        while planner
            .plan(&rollout("other", 1), &mut other, None)
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_of_the_spec() {
        let planner = Planner::new(ONE_THREAD, |_, _| panic!("not implemented"));
        let mut cache = PlanCache::default();
        let result = planner
            .plan(&rollout("shop", 1), &mut cache, None)
            .await
            .unwrap();
        let problem = result.plan.as_ref().unwrap_err();
        assert!(problem.contains("not implemented"), "{problem}");
    }

    #[tokio::test]
    async fn a_conversion_has_a_larger_stack_than_a_worker_thread() {
        fn depth(left: u32) -> u32 {
            // At least 1 KiB for each level; a worker thread has 2 MiB.
            let frame = std::hint::black_box([left; 256]);
            if left == 0 {
                frame[0]
            } else {
                depth(left - 1) + 1
            }
        }
        let planner = Planner::new(ONE_THREAD, |spec, name| {
            assert_eq!(depth(2_200), 2_200);
            convert(spec, name)
        });
        let mut cache = PlanCache::default();
        assert!(
            planner
                .plan(&rollout("shop", 1), &mut cache, None)
                .await
                .is_ok()
        );
    }
}
