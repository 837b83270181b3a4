//! Errors of refused or unhandled commands.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serin_crds::command::CommandVerb;
use serin_crds::names::GROUP;
use serin_crds::{RolloutCommand, api_status};

use super::messages;
use crate::command::CommandRequest;
use crate::connect::{Connection, api_error, error_chain, send};
use crate::exit::{CliError, Exit};

const VERBS: [CommandVerb; 10] = [
    CommandVerb::Promote,
    CommandVerb::PromoteFull,
    CommandVerb::Abort,
    CommandVerb::Retry,
    CommandVerb::Pause,
    CommandVerb::Resume,
    CommandVerb::SkipStep,
    CommandVerb::Override,
    CommandVerb::GiveBack,
    CommandVerb::Restart,
];

/// The error for a command that the controller refused.
pub fn refused_by_controller(request: &CommandRequest, message: &str) -> CliError {
    let verb = messages::kebab_case(request.verb);
    CliError::new(
        Exit::Refused,
        format!("{verb} of {} was refused: {message}", request.name),
    )
}

/// The error for a command that the API server rejected: the missing permission and how to grant
/// it.
///
/// The API server's authorizer decides whether a permission is missing; the message is not parsed.
pub async fn refused_by_api_server(
    connection: &Connection,
    request: &CommandRequest,
    user: &str,
    doing: &str,
    error: &kube::Error,
) -> CliError {
    let kube::Error::Api(status) = error else {
        return api_error(doing, error);
    };
    if !api_status::is_forbidden(status) && !api_status::is_invalid(status) {
        return api_error(doing, error);
    }
    let allowed = async |verb: &str, resource: &str, name: Option<&str>| {
        is_allowed(connection, verb, resource, name)
            .await
            .unwrap_or(true)
    };
    if !allowed("create", "rolloutcommands", None).await {
        return missing_create(connection, request, user);
    }
    let verb = messages::api_verb(request.verb);
    if allowed(verb, "rollouts", Some(&request.name)).await {
        return CliError::new(
            Exit::Refused,
            format!(
                "cannot {doing}: {}",
                without_preamble(&api_status::message(status))
            ),
        );
    }
    let mut others = Vec::new();
    for other in VERBS {
        if allowed(messages::api_verb(other), "rollouts", Some(&request.name)).await {
            others.push(messages::api_verb(other));
        }
    }
    missing_verb(connection, request, user, &others)
}

fn missing_verb(
    connection: &Connection,
    request: &CommandRequest,
    user: &str,
    others: &[&str],
) -> CliError {
    let namespace = &connection.namespace;
    let verb = messages::api_verb(request.verb);
    let failure = CliError::new(
        Exit::Refused,
        format!(
            "{user} may not {verb} the Rollout {} in namespace {namespace}",
            request.name
        ),
    );
    let failure = match others {
        [] => failure,
        others => failure.hint(format!("{user} may: {}.", others.join(", "))),
    };
    let role = chart_role(request.verb);
    failure
        .hint(format!(
            "This requires the verb {verb} on rollouts.{GROUP}, for example the chart's role {role}:"
        ))
        .hint(role_binding_command(namespace, role, user))
}

/// The ClusterRole of the Helm chart with the fewest permissions that include the verb. If the
/// release of the chart is not named `serin`, its name is the prefix instead.
const fn chart_role(verb: CommandVerb) -> &'static str {
    match verb {
        CommandVerb::Abort => "serin-aborter",
        CommandVerb::Promote => "serin-promoter",
        CommandVerb::Override => "serin-overrider",
        CommandVerb::GiveBack => "serin-migrator",
        CommandVerb::PromoteFull
        | CommandVerb::Retry
        | CommandVerb::Pause
        | CommandVerb::Resume
        | CommandVerb::SkipStep
        | CommandVerb::Restart => "serin-operator",
    }
}

/// The command with which an administrator grants the role.
fn role_binding_command(namespace: &str, role: &str, user: &str) -> String {
    format!("kubectl -n {namespace} create rolebinding NAME --clusterrole={role} --user={user}")
}

fn missing_create(connection: &Connection, request: &CommandRequest, user: &str) -> CliError {
    let namespace = &connection.namespace;
    let (verb, role) = (messages::api_verb(request.verb), chart_role(request.verb));
    CliError::new(Exit::Refused, format!("{user} may not create RolloutCommands in namespace {namespace}"))
        .hint("Every command creates a RolloutCommand. This requires create, get, list and watch")
        .hint(format!("on rolloutcommands.{GROUP} and {verb} on rollouts.{GROUP}, for example the chart's role {role}:"))
        .hint(role_binding_command(namespace, role, user))
}

/// Whether the current user is allowed to use the verb, according to the API server's authorizer.
async fn is_allowed(
    connection: &Connection,
    verb: &str,
    resource: &str,
    name: Option<&str>,
) -> Result<bool, CliError> {
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
    let answer = send(
        "check your permissions",
        reviews.create(&PostParams::default(), &review),
    )
    .await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// The message of an admission policy without the names of the policy and its binding.
fn without_preamble(message: &str) -> &str {
    message
        .split_once("denied request: ")
        .map_or(message, |(_, reason)| reason)
}

/// Whether a retry cannot succeed.
pub fn is_permanent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    api_status::is_unauthorized(status) || api_status::is_forbidden(status)
}

/// The error if the outcome cannot be watched.
pub fn cannot_watch(name: &str, error: &watcher::Error) -> CliError {
    CliError::new(Exit::Api, format!("the command {name} was created, but its outcome cannot be read: {}", error_chain(error)))
        .hint(format!("This requires get, list and watch on rolloutcommands.{GROUP}. --no-wait does not read the outcome."))
}

/// The error if the controller has not handled the command in time.
pub fn not_handled_in_time(connection: &Connection, created: &RolloutCommand) -> CliError {
    let (name, namespace) = (created.name_any(), &connection.namespace);
    CliError::new(Exit::TimedOut, format!("the controller has not handled the command {name} yet: is it running?"))
        .hint("The command remains and is executed once the controller runs, unless the release has moved on.")
        .hint(format!("To withdraw it: kubectl -n {namespace} delete rolloutcommand {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_message_is_shown_without_the_policy_name() {
        let message = "rolloutcommands.serin.dev \"a-promote-x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding \
                       'b' denied request: requestedBy must be your own name";
        assert_eq!(
            without_preamble(message),
            "requestedBy must be your own name"
        );
        assert_eq!(without_preamble("no"), "no");
    }
}
