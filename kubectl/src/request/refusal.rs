//! Why a request did not come through, in plain words.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serin_crds::command::CommandVerb;
use serin_crds::names::GROUP;
use serin_crds::{RolloutCommand, api_status};

use super::words;
use crate::connect::{Connection, api_failure, ask, causes};
use crate::exit::{Exit, Failure};
use crate::wish::Wish;

const VERBS: [CommandVerb; 8] = [
    CommandVerb::Promote,
    CommandVerb::PromoteFull,
    CommandVerb::Abort,
    CommandVerb::Retry,
    CommandVerb::Pause,
    CommandVerb::Resume,
    CommandVerb::SkipStep,
    CommandVerb::Override,
];

/// The controller looked at it and said no.
pub fn by_the_controller(wish: &Wish, message: &str) -> Failure {
    let verb = words::dashed(wish.verb);
    Failure::new(
        Exit::Refused,
        format!("{verb} of {} was refused: {message}", wish.name),
    )
}

/// The API server did not take the request: who may not do what, and what would grant it.
///
/// Whether it was for lack of permission is asked of the API server's authorizer, not guessed from
/// the message.
pub async fn by_the_api_server(
    connection: &Connection,
    wish: &Wish,
    user: &str,
    doing: &str,
    error: &kube::Error,
) -> Failure {
    let kube::Error::Api(status) = error else {
        return api_failure(doing, error);
    };
    if !api_status::is_forbidden(status) && !api_status::is_invalid(status) {
        return api_failure(doing, error);
    }
    let allowed = async |verb: &str, resource: &str, name: Option<&str>| {
        may(connection, verb, resource, name).await.unwrap_or(true)
    };
    if !allowed("create", "rolloutcommands", None).await {
        return may_not_ask_at_all(connection, wish, user);
    }
    let verb = words::of_the_api(wish.verb);
    if allowed(verb, "rollouts", Some(&wish.name)).await {
        return Failure::new(
            Exit::Refused,
            format!(
                "cannot {doing}: {}",
                without_preamble(&api_status::message(status))
            ),
        );
    }
    let mut others = Vec::new();
    for other in VERBS {
        if allowed(words::of_the_api(other), "rollouts", Some(&wish.name)).await {
            others.push(words::of_the_api(other));
        }
    }
    may_not(connection, wish, user, &others)
}

fn may_not(connection: &Connection, wish: &Wish, user: &str, others: &[&str]) -> Failure {
    let namespace = &connection.namespace;
    let verb = words::of_the_api(wish.verb);
    let failure = Failure::new(
        Exit::Refused,
        format!(
            "{user} may not {verb} the Rollout {} in namespace {namespace}",
            wish.name
        ),
    );
    let failure = match others {
        [] => failure,
        others => failure.hint(format!("{user} may: {}.", others.join(", "))),
    };
    let role = role_of_the_chart(wish.verb);
    failure
        .hint(format!(
            "It takes a role with the verb {verb} on rollouts.{GROUP}, such as the chart's {role}:"
        ))
        .hint(binding(namespace, role, user))
}

/// The ClusterRole of Serin's chart that grants least of those that grant the verb (a chart
/// installed under another name than `serin` puts that name before it).
const fn role_of_the_chart(verb: CommandVerb) -> &'static str {
    match verb {
        CommandVerb::Abort => "serin-aborter",
        CommandVerb::Promote => "serin-promoter",
        CommandVerb::Override => "serin-overrider",
        CommandVerb::PromoteFull
        | CommandVerb::Retry
        | CommandVerb::Pause
        | CommandVerb::Resume
        | CommandVerb::SkipStep => "serin-operator",
    }
}

/// What an administrator types to grant it.
fn binding(namespace: &str, role: &str, user: &str) -> String {
    format!("kubectl -n {namespace} create rolebinding NAME --clusterrole={role} --user={user}")
}

fn may_not_ask_at_all(connection: &Connection, wish: &Wish, user: &str) -> Failure {
    let namespace = &connection.namespace;
    let (verb, role) = (words::of_the_api(wish.verb), role_of_the_chart(wish.verb));
    Failure::new(Exit::Refused, format!("{user} may not create RolloutCommands in namespace {namespace}"))
        .hint("Promote, abort and the rest are asked for by creating one. It takes a role with create, get, list and watch")
        .hint(format!("on rolloutcommands.{GROUP} and {verb} on rollouts.{GROUP}, such as the chart's {role}:"))
        .hint(binding(namespace, role, user))
}

/// Whether the requester may, as the API server's authorizer says.
async fn may(
    connection: &Connection,
    verb: &str,
    resource: &str,
    name: Option<&str>,
) -> Result<bool, Failure> {
    let attributes = ResourceAttributes {
        group: Some(GROUP.to_owned()),
        namespace: Some(connection.namespace.clone()),
        resource: Some(resource.to_owned()),
        verb: Some(verb.to_owned()),
        name: name.map(ToOwned::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..Default::default()
        },
        ..Default::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(connection.client.clone());
    let answer = ask(
        "ask what you may do",
        reviews.create(&PostParams::default(), &review),
    )
    .await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// What an admission policy says, without the names of the policy and its binding.
fn without_preamble(message: &str) -> &str {
    message
        .split_once("denied request: ")
        .map_or(message, |(_, reason)| reason)
}

/// Whether trying again cannot help.
pub fn is_lasting(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    api_status::is_unauthorized(status) || api_status::is_forbidden(status)
}

/// The request stands, but its outcome may not be read.
pub fn cannot_watch(name: &str, error: &watcher::Error) -> Failure {
    Failure::new(Exit::Api, format!("the request {name} stands, but its outcome cannot be read: {}", causes(error)))
        .hint(format!("It takes a role with get, list and watch on rolloutcommands.{GROUP}; --no-wait does without."))
}

/// The request stands, but nobody has acted on it in time.
pub fn nobody_acted(connection: &Connection, created: &RolloutCommand) -> Failure {
    let (name, namespace) = (created.name_any(), &connection.namespace);
    Failure::new(Exit::TimedOut, format!("nobody has acted on the request {name} yet: is the controller running?"))
        .hint("It stands, and is carried out once the controller is back, unless the release has moved on by then.")
        .hint(format!("To withdraw it: kubectl -n {namespace} delete rolloutcommand {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_own_words_are_told_without_its_name() {
        let message = "rolloutcommands.serin.dev \"a-promote-x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding \
                       'b' denied request: requestedBy must be your own name";
        assert_eq!(
            without_preamble(message),
            "requestedBy must be your own name"
        );
        assert_eq!(without_preamble("no"), "no");
    }
}
