//! Label matchers, and the names that Kubernetes and routers derive from other names.

/// The API server truncates the base of a generated name to this length, so that the name has at
/// most 63 characters.
const MAX_GENERATED_BASE: usize = 58;

/// Length of the random suffix of a generated name.
const SUFFIX_LENGTH: usize = 5;

/// The prefix of a ReplicaSet's pod names, and whether the ReplicaSet name is truncated in it.
pub(crate) fn pod_name_base(replica_set: &str) -> (String, bool) {
    let base = format!("{replica_set}-");
    match base.get(..MAX_GENERATED_BASE) {
        Some(cut) if cut.len() < base.len() => (cut.to_owned(), true),
        _ => (base, false),
    }
}

/// Whether a pod may belong to a ReplicaSet, according to its name. If the ReplicaSet name is
/// truncated, pods of other ReplicaSets can match.
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

/// Pattern of a ReplicaSet's pod names: its name and a random suffix.
pub(crate) fn pod_name_pattern(replica_set: &str) -> String {
    let (base, _) = pod_name_base(replica_set);
    format!("{}[a-z0-9]{{{SUFFIX_LENGTH}}}", regex::escape(&base))
}

/// The characters of generated names: without vowels, so that they are no words.
const GENERATED_CHARACTERS: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Pattern of the pod names of all revisions of a Rollout: its name, a revision that looks like
/// those of `replica_sets`, and a random suffix, as far as they fit. If these ReplicaSets are not
/// named after the Rollout, the revision can be any word.
pub(crate) fn pod_name_pattern_of_all_revisions(rollout: &str, replica_sets: &[&str]) -> String {
    let base = format!("{rollout}-");
    let revisions: Option<Vec<&str>> = replica_sets
        .iter()
        .map(|set| set.strip_prefix(&base))
        .collect();
    let revisions = revisions.unwrap_or_default();
    let is_generated = |revision: &&str| revision.chars().all(|c| GENERATED_CHARACTERS.contains(c));
    let character = if revisions.iter().all(is_generated) {
        format!("[{GENERATED_CHARACTERS}]")
    } else {
        "[a-z0-9]".to_owned()
    };
    let lengths = revisions.iter().map(|revision| revision.len());
    let (shortest, longest) = (lengths.clone().min(), lengths.max());
    let room = MAX_GENERATED_BASE.saturating_sub(base.len());
    let name = regex::escape(base.get(..MAX_GENERATED_BASE).unwrap_or(&base));
    let suffix = format!("[a-z0-9]{{{SUFFIX_LENGTH}}}");
    match (room, shortest.unwrap_or(0), longest.unwrap_or(0)) {
        (0, _, _) => format!("{name}{suffix}"),
        (_, 0, _) => format!("{name}[a-z0-9]{{1,{room}}}-?{suffix}"),
        (_, shortest, longest) if longest < room => {
            format!("{name}{character}{{{shortest},{longest}}}-{suffix}")
        }
        (_, shortest, _) if shortest >= room => format!("{name}{character}{{{room}}}{suffix}"),
        (_, shortest, _) => format!("{name}{character}{{{shortest},{room}}}-?{suffix}"),
    }
}

pub(crate) fn alternation(canary: &str, stable: &str) -> String {
    format!("(?:{canary})|(?:{stable})")
}

/// Matches any of these patterns. Without patterns it matches no object name.
pub(crate) fn any_of(patterns: &[String]) -> String {
    match patterns {
        [] => "!".to_owned(),
        [only] => only.clone(),
        several => format!("(?:{})", several.join("|")),
    }
}

pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The words of a name: letters and digits.
pub(crate) fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

/// Joins names as Traefik does: letters and digits, separated by single dashes.
pub(crate) fn join_with_dashes(names: &[&str]) -> String {
    let words = names.iter().flat_map(|name| words(name));
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_with_single_dashes() {
        assert_eq!(
            join_with_dashes(&["shop-check.out--v2", "x"]),
            "shop-check-out-v2-x"
        );
    }

    #[test]
    fn a_pod_name_is_its_replica_set_name_and_five_characters() {
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
    fn a_long_name_is_truncated_before_the_suffix() {
        // kubernetes apiserver, storage/names/generate.go: the base is truncated to 58 characters,
        // which can remove the dash.
        let set = "s".repeat(58);
        assert!(is_pod_name_of(&set, &format!("{set}x7k2p")));
        assert!(!pod_name_base(&"s".repeat(57)).1 && pod_name_base(&set).1);
        let long = format!("{}-abcdefghi", "s".repeat(63));
        assert!(is_pod_name_of(&long, &format!("{}x7k2p", "s".repeat(58))));
    }
}
