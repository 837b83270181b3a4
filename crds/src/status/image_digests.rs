//! The digests of the images of revisions, which a registry was asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serin_core::units::Revision;

use super::{RolloutStatus, serialized_bytes};

/// Maximum size of the digests of all revisions together as JSON. Older revisions are left out.
pub const IMAGE_DIGESTS_BYTES: usize = 12 << 10;

/// Digests of the images of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedRevision {
    /// Revision.
    pub revision: Revision,
    /// Its images that have a tag and no digest in the pod template.
    pub images: Vec<PinnedImage>,
}

/// Digest of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedImage {
    /// Image as in the pod template.
    pub image: String,
    /// Digest that its tag had before the first pod of the revision, for example sha256:...
    pub digest: String,
}

impl RolloutStatus {
    /// The images of a revision whose digests were recorded.
    pub fn pinned_images(&self, revision: &Revision) -> &[PinnedImage] {
        let mut records = self.image_digests.iter();
        let found = records.find(|record| record.revision == *revision);
        found.map_or(&[], |found| found.images.as_slice())
    }
}

/// The records of the revisions that can still run, with the newest first: `added`, if it has
/// images, and then those of `kept`. Older ones are left out if all have more than
/// [`IMAGE_DIGESTS_BYTES`].
pub fn image_digests(
    recorded: &[PinnedRevision],
    added: Option<PinnedRevision>,
    is_kept: impl Fn(&Revision) -> bool,
) -> Vec<PinnedRevision> {
    let is_known = |added: &PinnedRevision| {
        recorded
            .iter()
            .any(|record| record.revision == added.revision)
    };
    // What was recorded once stays: the pods of the revision run it.
    let added = added.filter(|added| !added.images.is_empty() && !is_known(added));
    let kept = recorded.iter().filter(|record| is_kept(&record.revision));
    let mut records: Vec<PinnedRevision> = added.into_iter().chain(kept.cloned()).collect();
    while records.len() > 1 && serialized_bytes(&records) > IMAGE_DIGESTS_BYTES {
        records.pop();
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: &str, digest: &str) -> PinnedRevision {
        let image = PinnedImage {
            image: "app:v1".to_owned(),
            digest: digest.to_owned(),
        };
        PinnedRevision {
            revision: Revision::new(revision),
            images: vec![image],
        }
    }

    #[test]
    fn the_first_digest_of_a_revision_stays() {
        let first = image_digests(&[], Some(record("a", "one")), |_| true);
        let next = image_digests(&first, Some(record("a", "two")), |_| true);
        assert_eq!(next, [record("a", "one")]);
        let next = image_digests(&next, Some(record("b", "three")), |_| true);
        assert_eq!(next, [record("b", "three"), record("a", "one")]);
        let next = image_digests(&next, None, |revision| revision.as_str() == "a");
        assert_eq!(next, [record("a", "one")]);
        let status = RolloutStatus {
            image_digests: next,
            ..RolloutStatus::default()
        };
        assert_eq!(status.pinned_images(&Revision::new("a"))[0].digest, "one");
        assert!(status.pinned_images(&Revision::new("b")).is_empty());
    }

    #[test]
    fn the_oldest_revisions_are_left_out_if_all_are_too_large() {
        let mut records = Vec::new();
        for number in 0..40 {
            let added = record(&format!("r{number}"), &"d".repeat(512));
            records = image_digests(&records, Some(added), |_| true);
        }
        assert!(serialized_bytes(&records) <= IMAGE_DIGESTS_BYTES);
        assert_eq!(records[0].revision.as_str(), "r39");
    }
}
