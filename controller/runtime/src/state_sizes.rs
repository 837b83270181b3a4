//! Sizes of the process-local state, so that a test can prove that it does not grow with deleted
//! objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dispatcher::Dispatcher;
use crate::reconcile::Context;

/// Counts the entries of the process-local state of a running controller.
pub struct StateSizes {
    context: Arc<Context>,
    dispatcher: Arc<Dispatcher>,
}

impl StateSizes {
    pub(crate) fn new(context: Arc<Context>, dispatcher: Arc<Dispatcher>) -> Self {
        Self {
            context,
            dispatcher,
        }
    }

    /// The number of entries of each collection, by name. Caches have the plural names of their
    /// kinds.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let (cache, safeguards) = (&self.context.cache, &self.context.safeguards);
        let routes = cache.routes.iter();
        let routes = routes.map(|routes| (routes.router.plural(), routes.objects.entry_count()));
        [
            ("rollouts", cache.rollouts.len()),
            ("replicasets", cache.replica_sets.entry_count()),
            ("pods", cache.pods.entry_count()),
            ("services", cache.services.entry_count()),
            ("endpointslices", cache.slices.entry_count()),
            ("rolloutcommands", cache.commands.entry_count()),
            ("policies", cache.policies.entry_count()),
            ("claims", cache.claim_count()),
            ("local states", self.context.local_states.entry_count()),
            ("journal", safeguards.journal.record_count()),
            ("queue", self.dispatcher.entry_count()),
        ]
        .into_iter()
        .chain(routes)
        .collect()
    }
}
