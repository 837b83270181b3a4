//! The Secrets that the pod template uses come from a secrets manager.
//!
//! Which object creates a Secret is read from the objects of the managers. Secrets themselves are
//! never read.

use std::collections::BTreeSet;

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{SecretsManager, SecretsManagerGuardrail};

use crate::evaluation::Report;
use crate::facts::{Facts, Source, Unknown};
use crate::template::{Template, items, object_name};

/// Annotations of the injector that replaces references to Vault in environment variables.
const VAULT_ANNOTATIONS: [&str; 2] = [
    "vault.security.banzaicloud.io/vault-addr",
    "vault.security.bank-vaults.io/vault-addr",
];
const ALL: [SecretsManager; 5] = [
    SecretsManager::ExternalSecret,
    SecretsManager::SecretProviderClass,
    SecretsManager::SealedSecret,
    SecretsManager::Vault,
    SecretsManager::Certificate,
];
/// Ends of names of environment variables that contain a secret.
const SECRET_NAMES: [&str; 6] = [
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "PRIVATE_KEY",
];

pub(super) fn check(options: &SecretsManagerGuardrail, facts: &Facts, report: &mut Report) {
    let template = Template(&facts.template);
    let used = used_secrets(template);
    let managers = options.managers.as_deref().unwrap_or(&ALL);
    let has_vault_injector = managers.contains(&SecretsManager::Vault)
        && VAULT_ANNOTATIONS
            .iter()
            .any(|key| template.annotation(key).is_some());
    let (managed, unknown) = managed_secrets(managers, facts);
    let mut is_unknown_reported = false;
    for (name, use_) in &used {
        let is_exempt = options.exempt_secrets.contains(name);
        if is_exempt || has_vault_injector || managed.contains(name.as_str()) {
            continue;
        }
        match unknown.first() {
            // The Secret may come from what could not be read.
            Some((what, why)) if !is_unknown_reported => {
                report.unknown(what, why);
                is_unknown_reported = true;
            }
            Some(_) => {}
            None => report.add(
                HoldCode::SecretNotManaged,
                format!("Secret {name}"),
                format!("{use_} uses it, and no secrets manager creates it"),
                "Create it with an ExternalSecret or a SealedSecret, mount it by a \
                 SecretProviderClass, or list it in exemptSecrets",
            ),
        }
    }
    check_env(options, template, report);
}

fn check_env(options: &SecretsManagerGuardrail, template: Template<'_>, report: &mut Report) {
    for container in template.containers() {
        for variable in items(&container.json["env"]) {
            let name = variable["name"].as_str().unwrap_or_default();
            if is_plain_secret(name, variable) {
                report.add(
                    HoldCode::SecretNotManaged,
                    container.label(),
                    format!("the value of the environment variable {name} is in the pod template"),
                    "Move the value to a secrets manager: it is in Git and in etcd",
                );
            }
            let secret = &variable["valueFrom"]["secretKeyRef"]["name"];
            if options.forbid_env == Some(true) && secret.is_string() {
                report.add(
                    HoldCode::SecretInEnv,
                    container.label(),
                    format!("the environment variable {name} contains a Secret"),
                    "Mount the Secret as a volume",
                );
            }
        }
        let has_all = items(&container.json["envFrom"]).any(|from| from["secretRef"].is_object());
        if options.forbid_env == Some(true) && has_all {
            report.add(
                HoldCode::SecretInEnv,
                container.label(),
                "envFrom puts a whole Secret into environment variables",
                "Mount the Secret as a volume",
            );
        }
    }
}

/// Whether an environment variable with the name of a secret has its value in the template.
fn is_plain_secret(name: &str, variable: &Value) -> bool {
    let value = variable["value"].as_str().unwrap_or_default();
    let is_reference = value.is_empty() || value.starts_with("$(") || value.starts_with("vault:");
    let name = name.to_ascii_uppercase();
    !is_reference && SECRET_NAMES.iter().any(|end| name.ends_with(end))
}

/// The Secrets that a template uses, with the place.
fn used_secrets(template: Template<'_>) -> Vec<(String, String)> {
    let mut used: Vec<(String, String)> = Vec::new();
    let mut add = |name: &Value, place: String| {
        let name = name.as_str().filter(|name| !name.is_empty());
        if let Some(name) = name
            && used.iter().all(|(known, _)| known != name)
        {
            used.push((name.to_owned(), place));
        }
    };
    for container in template.containers() {
        for variable in items(&container.json["env"]) {
            add(
                &variable["valueFrom"]["secretKeyRef"]["name"],
                container.label(),
            );
        }
        for from in items(&container.json["envFrom"]) {
            add(&from["secretRef"]["name"], container.label());
        }
    }
    for volume in items(&template.spec()["volumes"]) {
        let place = || format!("volume {}", volume["name"].as_str().unwrap_or_default());
        add(&volume["secret"]["secretName"], place());
        for source in items(&volume["projected"]["sources"]) {
            add(&source["secret"]["name"], place());
        }
    }
    used
}

/// The Secrets that the managers create, and what of the managers is not known.
fn managed_secrets<'a>(
    managers: &[SecretsManager],
    facts: &'a Facts,
) -> (BTreeSet<&'a str>, Vec<(&'static str, Unknown)>) {
    let mut managed = BTreeSet::new();
    let mut unknown = Vec::new();
    for (source, what, names) in managers.iter().flat_map(|manager| sources(*manager)) {
        match facts.objects_of(*source).objects() {
            Ok(objects) => managed.extend(objects.iter().flat_map(names)),
            Err(why) => unknown.push((*what, why)),
        }
    }
    (managed, unknown)
}

type Names = fn(&Value) -> Vec<&str>;

/// Where a manager's objects are, and which Secrets an object creates.
fn sources(manager: SecretsManager) -> &'static [(Source, &'static str, Names)] {
    match manager {
        SecretsManager::ExternalSecret => {
            &[(Source::ExternalSecrets, "ExternalSecrets", external_secret)]
        }
        SecretsManager::SealedSecret => &[(Source::SealedSecrets, "SealedSecrets", sealed_secret)],
        SecretsManager::SecretProviderClass => &[(
            Source::SecretProviderClasses,
            "SecretProviderClasses",
            provider_class,
        )],
        SecretsManager::Vault => &[
            (
                Source::VaultStaticSecrets,
                "VaultStaticSecrets",
                vault_secret,
            ),
            (
                Source::VaultDynamicSecrets,
                "VaultDynamicSecrets",
                vault_secret,
            ),
        ],
        SecretsManager::Certificate => &[(Source::Certificates, "Certificates", certificate)],
    }
}

fn external_secret(object: &Value) -> Vec<&str> {
    let target = object["spec"]["target"]["name"].as_str();
    vec![target.unwrap_or_else(|| object_name(object))]
}

fn sealed_secret(object: &Value) -> Vec<&str> {
    vec![object_name(object)]
}

fn provider_class(object: &Value) -> Vec<&str> {
    let objects = items(&object["spec"]["secretObjects"]);
    objects
        .filter_map(|object| object["secretName"].as_str())
        .collect()
}

fn vault_secret(object: &Value) -> Vec<&str> {
    object["spec"]["destination"]["name"]
        .as_str()
        .into_iter()
        .collect()
}

fn certificate(object: &Value) -> Vec<&str> {
    object["spec"]["secretName"].as_str().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::SecretsManager as Kind;

    use super::super::test_facts::{codes, facts_of, findings, with, without};
    use super::*;
    use crate::facts::Fact;

    fn facts() -> Facts {
        let spec = json!({
            "containers": [{"name": "app",
                "env": [{"name": "DB", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}],
                "envFrom": [{"secretRef": {"name": "flags"}}],
            }],
            "volumes": [
                {"name": "tls", "secret": {"secretName": "tls"}},
                {"name": "all", "projected": {"sources": [{"secret": {"name": "api"}}]}},
                {"name": "csi", "csi": {"driver": "secrets-store.csi.k8s.io"}},
            ],
        });
        without(facts_of(spec), Source::for_guardrail(Kind))
    }

    #[test]
    fn every_use_of_a_secret_without_a_manager_is_named() {
        let objects: Vec<String> = findings(Kind, json!({}), &facts())
            .iter()
            .map(|finding| finding.object.to_string())
            .collect();
        assert_eq!(
            objects,
            ["Secret db", "Secret flags", "Secret tls", "Secret api"]
        );
    }

    #[test]
    fn the_objects_of_each_manager_count() {
        let mut facts = facts();
        for (source, objects) in [
            (
                Source::ExternalSecrets,
                json!([{"metadata": {"name": "db-from-aws"}, "spec": {"target": {"name": "db"}}}]),
            ),
            (
                Source::SealedSecrets,
                json!([{"metadata": {"name": "flags"}}]),
            ),
            (
                Source::Certificates,
                json!([{"spec": {"secretName": "tls"}}]),
            ),
            (
                Source::SecretProviderClasses,
                json!([{"spec": {"secretObjects": [{"secretName": "api"}]}}]),
            ),
        ] {
            facts = with(facts, source, objects);
        }
        assert!(findings(Kind, json!({}), &facts).is_empty());
        let only_vault = json!({"managers": ["Vault"]});
        assert_eq!(findings(Kind, only_vault.clone(), &facts).len(), 4);
        let destination = |name: &str| json!([{"spec": {"destination": {"name": name}}}]);
        let facts = with(facts, Source::VaultStaticSecrets, destination("db"));
        let facts = with(facts, Source::VaultDynamicSecrets, destination("api"));
        assert_eq!(findings(Kind, only_vault, &facts).len(), 2);
    }

    #[test]
    fn the_vault_injector_and_exempt_secrets_pass() {
        let mut injected = facts();
        injected.template["metadata"]["annotations"] =
            json!({VAULT_ANNOTATIONS[0]: "https://vault:8200"});
        assert!(findings(Kind, json!({}), &injected).is_empty());
        let exempt = json!({"exemptSecrets": ["db", "flags", "tls", "api"]});
        assert!(findings(Kind, exempt, &facts()).is_empty());
    }

    #[test]
    fn secrets_in_the_environment_are_forbidden_on_demand() {
        let options = json!({"forbidEnv": true, "exemptSecrets": ["db", "flags", "tls", "api"]});
        let in_env = [HoldCode::SecretInEnv, HoldCode::SecretInEnv];
        assert_eq!(codes(Kind, options, &facts()), in_env);
    }

    #[test]
    fn a_secret_in_plain_text_is_found_by_its_name() {
        let env = |name: &str, value: &str| {
            let spec =
                json!({"containers": [{"name": "app", "env": [{"name": name, "value": value}]}]});
            codes(
                Kind,
                json!({}),
                &without(facts_of(spec), Source::for_guardrail(Kind)),
            )
        };
        assert_eq!(env("DB_PASSWORD", "hunter2"), [HoldCode::SecretNotManaged]);
        for (name, value) in [
            ("DB_PASSWORD", "$(FROM_SECRET)"),
            ("DB_PASSWORD", ""),
            ("PASSWORD_FILE", "/run/password"),
            ("TOKEN_URL", "https://example.com"),
        ] {
            assert!(env(name, value).is_empty(), "{name}={value}");
        }
    }

    #[test]
    fn a_manager_that_cannot_be_read_is_no_pass_and_reported_once() {
        let mut facts = facts();
        let failed = Fact::Failed("timeout".to_owned());
        facts.objects.insert(Source::ExternalSecrets, failed);
        assert_eq!(codes(Kind, json!({}), &facts), [HoldCode::GuardrailUnknown]);
    }
}
