//! Asks the API server who a token belongs to and what its user may read.
//!
//! Anybody who reaches the port can send tokens, so the number of reviews is limited, and their
//! results are kept for a short time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use serin_crds::names::GROUP;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::AUDIENCE;
use crate::cluster_cache::Key;
use crate::token_bucket::TokenBucket;

/// Time for which the result of a review counts. A token that is revoked is accepted for this time.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Maximum number of results to keep.
const KEPT_RESULTS: usize = 1_024;
/// Interval of reviews once the burst is used up.
const REVIEW_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time for both requests of a review.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a client may read a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It may.
    Granted,
    /// Its token is not valid for this endpoint.
    InvalidToken,
    /// Its user may not get the Rollout.
    Forbidden,
    /// The limit of reviews is reached.
    TooManyReviews,
    /// The API server did not answer.
    Unavailable,
}

/// The digest of a token and the Rollout that it is for.
type ReviewKey = ([u8; 32], Key);

/// Reviews tokens and permissions.
pub(super) struct AccessReviewer {
    client: Client,
    results: Mutex<HashMap<ReviewKey, (Access, Instant)>>,
    limit: Mutex<TokenBucket>,
}

impl AccessReviewer {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            results: Mutex::default(),
            limit: Mutex::default(),
        }
    }

    /// Whether the user of a token may get a Rollout.
    pub(super) async fn review(&self, token: &str, rollout: &Key) -> Access {
        // A digest, so that no token is kept in memory.
        let key = (Sha256::digest(token.as_bytes()).into(), rollout.clone());
        if let Some(access) = self.known(&key) {
            return access;
        }
        if !self.may_review() {
            return Access::TooManyReviews;
        }
        let reviewed = timeout(REVIEW_TIMEOUT, self.send(token, rollout)).await;
        match reviewed {
            Ok(Ok(access)) => {
                self.keep(key, access);
                access
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot review a token; is `verdicts.enabled` set in the chart?");
                Access::Unavailable
            }
            Err(_) => Access::Unavailable,
        }
    }

    fn may_review(&self) -> bool {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.take(REVIEW_INTERVAL).is_ok()
    }

    fn known(&self, key: &ReviewKey) -> Option<Access> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let (access, at) = results.get(key)?;
        (at.elapsed() < KEPT_FOR).then_some(*access)
    }

    fn keep(&self, key: ReviewKey, access: Access) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if results.len() >= KEPT_RESULTS {
            results.retain(|_, (_, at)| at.elapsed() < KEPT_FOR);
        }
        // The limit of reviews is lower than what fits, so this is not reached.
        if results.len() < KEPT_RESULTS {
            results.insert(key, (access, Instant::now()));
        }
    }

    async fn send(&self, token: &str, rollout: &Key) -> kube::Result<Access> {
        let Some(user) = self.user_of(token).await? else {
            return Ok(Access::InvalidToken);
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some("rollouts".to_owned()),
                    verb: Some("get".to_owned()),
                    namespace: Some(rollout.namespace.clone()),
                    name: Some(rollout.name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let is_allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if is_allowed {
            Access::Granted
        } else {
            Access::Forbidden
        })
    }

    /// The user of a token. `None` if the token is not valid for [`AUDIENCE`].
    async fn user_of(&self, token: &str) -> kube::Result<Option<User>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let status = answer.status.unwrap_or_default();
        // An authenticator that knows no audiences returns none.
        let audiences = status.audiences.unwrap_or_default();
        let is_valid =
            status.authenticated == Some(true) && audiences.iter().any(|name| name == AUDIENCE);
        Ok(status.user.filter(|_| is_valid).map(User::from))
    }
}

struct User {
    username: Option<String>,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl From<UserInfo> for User {
    fn from(user: UserInfo) -> Self {
        Self {
            username: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
        }
    }
}
