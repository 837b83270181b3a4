//! The texts of label matchers, and the names that Kubernetes and routers make of other names.

/// The API server cuts a generated name's base here, so that the name has at most 63 characters.
const LONGEST_GENERATED_BASE: usize = 58;

/// The length of the random suffix of a generated name.
const SUFFIX_LENGTH: usize = 5;

/// What the names of a ReplicaSet's pods begin with, and whether the ReplicaSet's name is too long
/// to be in them completely.
pub(crate) fn pod_name_base(replica_set: &str) -> (String, bool) {
    let base = format!("{replica_set}-");
    match base.get(..LONGEST_GENERATED_BASE) {
        Some(cut) if cut.len() < base.len() => (cut.to_owned(), true),
        _ => (base, false),
    }
}

/// Whether a pod can be one of a ReplicaSet's by its name. If the ReplicaSet's name is too long,
/// pods of others can be as well.
pub fn is_pod_name_of(replica_set: &str, pod: &str) -> bool {
    let (base, _) = pod_name_base(replica_set);
    let is_random = |suffix: &str| {
        suffix.len() == SUFFIX_LENGTH
            && suffix
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    pod.strip_prefix(base.as_str()).is_some_and(is_random)
}

/// The names of a ReplicaSet's pods: its name and a random suffix.
pub(crate) fn pods_of(replica_set: &str) -> String {
    let (base, _) = pod_name_base(replica_set);
    format!("{}[a-z0-9]{{{SUFFIX_LENGTH}}}", regex::escape(&base))
}

/// The names of the pods of every revision of a Rollout: its name, the revision and a random
/// suffix, as far as the name leaves room.
pub(crate) fn pods_of_all_revisions(rollout: &str) -> String {
    let base = format!("{rollout}-");
    let room = LONGEST_GENERATED_BASE.saturating_sub(base.len());
    let base = base.get(..LONGEST_GENERATED_BASE).unwrap_or(&base);
    match room {
        0 => format!("{}[a-z0-9]{{{SUFFIX_LENGTH}}}", regex::escape(base)),
        _ => format!(
            "{}[a-z0-9]{{1,{room}}}-?[a-z0-9]{{{SUFFIX_LENGTH}}}",
            regex::escape(base)
        ),
    }
}

pub(crate) fn either(canary: &str, stable: &str) -> String {
    format!("(?:{canary})|(?:{stable})")
}

/// One of these regular expressions; one that matches no name of an object if there is none.
pub(crate) fn any_of(patterns: &[String]) -> String {
    match patterns {
        [] => "!".to_owned(),
        [only] => only.clone(),
        several => format!("(?:{})", several.join("|")),
    }
}

pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Names as Traefik joins them: letters and numbers, separated by single dashes.
pub(crate) fn joined(names: &[&str]) -> String {
    let words = names
        .iter()
        .flat_map(|name| name.split(|c: char| !c.is_alphanumeric()));
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_by_single_dashes() {
        assert_eq!(joined(&["shop-check.out--v2", "x"]), "shop-check-out-v2-x");
    }

    #[test]
    fn a_pod_name_is_its_replica_set_and_five_characters() {
        assert!(is_pod_name_of("shop-abc", "shop-abc-x7k2p"));
        for other in [
            "shop-abc",
            "shop-abc-x-x7k2p",
            "shop-abc-x7k2",
            "shop-abc-x7k2p9",
            "a-shop-abc-x7k2p",
        ] {
            assert!(!is_pod_name_of("shop-abc", other), "{other}");
        }
    }

    #[test]
    fn a_long_name_is_cut_before_the_suffix_as_the_api_server_does() {
        // kubernetes apiserver, storage/names/generate.go: the base is cut at 58 characters, and
        // what is cut can be the dash.
        let set = "s".repeat(58);
        assert!(is_pod_name_of(&set, &format!("{set}x7k2p")));
        assert!(!pod_name_base(&"s".repeat(57)).1 && pod_name_base(&set).1);
        let long = format!("{}-abcdefghi", "s".repeat(63));
        assert!(is_pod_name_of(&long, &format!("{}x7k2p", "s".repeat(58))));
    }
}
