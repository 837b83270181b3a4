//! What goes wrong between a client and the API server, and the log of what went by.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::Call;

/// A plan for one or more requests to go wrong: which, and how.
///
/// ```
/// use serin_fake_cluster::Fault;
/// // The second patch of the route `checkout` is refused as a conflict.
/// let fault = Fault::on("patch", "httproutes").named("checkout").after(1).status(409);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    verb: String,
    plural: String,
    name: Option<String>,
    subresource: Option<String>,
    who: Option<String>,
    skip: usize,
    times: usize,
    outcome: Outcome,
}

/// How a request goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is refused with this code and nothing happens.
    Status(u16),
    /// It never arrives and is never answered.
    Hangs,
    /// It is carried out, but the answer is never heard.
    LosesAnswer,
    /// The connection is refused.
    Refused,
    /// It arrives so much later.
    Delayed(Duration),
}

impl Fault {
    /// Requests with this verb (as in RBAC: get, list, watch, create, update, patch, delete) on
    /// this plural (`httproutes`); `*` is any. Without more, the first such request is refused with
    /// 500.
    pub fn on(verb: &str, plural: &str) -> Self {
        Self {
            verb: verb.into(),
            plural: plural.into(),
            name: None,
            subresource: None,
            who: None,
            skip: 0,
            times: 1,
            outcome: Outcome::Status(500),
        }
    }

    /// Only requests about the object of this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// Only requests to this subresource, for example `status`.
    #[must_use]
    pub fn subresource(self, subresource: &str) -> Self {
        Self {
            subresource: Some(subresource.into()),
            ..self
        }
    }

    /// Only requests of this client.
    #[must_use]
    pub fn by(self, who: &str) -> Self {
        Self {
            who: Some(who.into()),
            ..self
        }
    }

    /// Lets so many such requests pass first.
    #[must_use]
    pub fn after(self, requests: usize) -> Self {
        Self {
            skip: requests,
            ..self
        }
    }

    /// So many requests go wrong; one where this is not said.
    #[must_use]
    pub fn times(self, requests: usize) -> Self {
        Self {
            times: requests,
            ..self
        }
    }

    /// Every such request goes wrong.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// It is refused with this code, and nothing happens.
    #[must_use]
    pub fn status(self, code: u16) -> Self {
        Self {
            outcome: Outcome::Status(code),
            ..self
        }
    }

    /// It never arrives and is never answered.
    #[must_use]
    pub fn hangs(self) -> Self {
        Self {
            outcome: Outcome::Hangs,
            ..self
        }
    }

    /// It is carried out, but the answer is never heard.
    #[must_use]
    pub fn loses_answer(self) -> Self {
        Self {
            outcome: Outcome::LosesAnswer,
            ..self
        }
    }

    /// The connection is refused.
    #[must_use]
    pub fn refused(self) -> Self {
        Self {
            outcome: Outcome::Refused,
            ..self
        }
    }

    /// It arrives so much later.
    #[must_use]
    pub fn delayed(self, by: Duration) -> Self {
        Self {
            outcome: Outcome::Delayed(by),
            ..self
        }
    }

    fn concerns(&self, call: &Call, who: &str) -> bool {
        let Some((target, verb)) = call.target.as_ref().zip(call.verb()) else {
            return false;
        };
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        let maybe = |wanted: &Option<String>, value: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == value
        };
        is(&self.verb, verb)
            && is(&self.plural, &target.plural)
            && maybe(&self.name, target.name.as_deref())
            && maybe(&self.subresource, target.subresource.as_deref())
            && maybe(&self.who, Some(who))
    }

    /// What goes wrong with a request, by the first plan that concerns it; each plan counts the
    /// requests it concerns.
    pub(crate) fn strike(plans: &mut [Self], call: &Call, who: &str) -> Option<Outcome> {
        let mut struck = None;
        for plan in plans.iter_mut().filter(|plan| plan.concerns(call, who)) {
            if plan.skip > 0 {
                plan.skip -= 1;
            } else if plan.times > 0 && struck.is_none() {
                plan.times -= usize::from(plan.times != usize::MAX);
                struck = Some(plan.outcome);
            }
        }
        struck
    }
}

/// A request that the API server got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSeen {
    /// When it arrived.
    pub at: Timestamp,
    /// The client.
    pub who: String,
    /// As in RBAC: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// The plural of the kind, for example `httproutes`.
    pub plural: String,
    /// The subresource, where it is about one.
    pub subresource: Option<String>,
    /// `namespace/name`, as far as the path says.
    pub object: String,
    /// Whether nothing was to be stored.
    pub dry_run: bool,
    /// What was answered; 0: a fault came before.
    pub code: u16,
}

impl RequestSeen {
    pub(crate) fn new(call: &Call, who: &str, at: Timestamp) -> Option<Self> {
        let target = call.target.as_ref()?;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        Some(Self {
            at,
            who: who.into(),
            verb: call.verb()?,
            plural: target.plural.clone(),
            subresource: target.subresource.clone(),
            object: format!("{}/{}", part(&target.namespace), part(&target.name)),
            dry_run: call.is_dry_run(),
            code: 0,
        })
    }

    /// Whether it asked for something to be stored.
    pub fn is_write(&self) -> bool {
        !self.dry_run && !matches!(self.verb, "get" | "list" | "watch")
    }
}
