//! Globs of image names, as the policies of sigstore's policy-controller have them.

use crate::image::{ImageReference, is_registry};

/// Whether a glob matches the canonical name of an image: `*` within a part of the
/// path, `**` over parts. The tag of a glob is ignored.
pub(crate) fn matches_glob(glob: &str, name: &str) -> bool {
    let glob = ImageReference::parse(glob).name;
    let pattern = match glob.split_once('/') {
        None if glob.starts_with('*') => glob.to_owned(),
        None => format!("docker.io/library/{glob}"),
        Some(("index.docker.io", rest)) => format!("docker.io/{rest}"),
        Some((first, _)) if is_registry(first) || first.contains('*') => glob.to_owned(),
        Some(_) => format!("docker.io/{glob}"),
    };
    matches_bytes(pattern.as_bytes(), name.as_bytes())
}

/// Matches without recursion: for each position of the pattern, the set of positions in the name.
fn matches_bytes(pattern: &[u8], name: &[u8]) -> bool {
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let is_star = pattern[at] == b'*';
        let crosses = is_star && pattern.get(at + 1) == Some(&b'*');
        let mut next = vec![false; name.len() + 1];
        for position in 0..=name.len() {
            if is_star {
                let comes_from_left =
                    position > 0 && next[position - 1] && (crosses || name[position - 1] != b'/');
                next[position] = reachable[position] || comes_from_left;
            } else if position > 0 {
                next[position] = reachable[position - 1] && name[position - 1] == pattern[at];
            }
        }
        reachable = next;
        at += if crosses { 2 } else { 1 };
    }
    reachable[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_parts_of_a_path() {
        let name = "docker.io/library/nginx";
        for (glob, expected) in [
            ("nginx", true),
            ("nginx*", true),
            ("**", true),
            ("*", false),
            ("docker.io/*/nginx", true),
            ("docker.io/*", false),
            ("ghcr.io/**", false),
            ("", false),
        ] {
            assert_eq!(matches_glob(glob, name), expected, "{glob}");
        }
    }
}
