//! Images of a template with the digests of their tags.
//!
//! The digests are not part of the revision: the template as the user wrote it has the tags. An
//! annotation names the containers whose digests were added, so that they can be removed again and
//! no digest of the user is.

use serde_json::{Map, Value, json};
use serin_crds::names::PINNED_CONTAINERS_ANNOTATION;
use serin_crds::status::PinnedImage;

/// The lists of containers in a pod spec.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Adds digests to the images of a template. An annotation of the user in its place is removed.
pub fn pin(template: &mut Value, images: &[PinnedImage]) {
    remove_annotation(template);
    let mut pinned: Vec<String> = Vec::new();
    for_each_container(template, |name, image| {
        let found = images.iter().find(|known| known.image == *image);
        if let Some(found) = found.filter(|_| !image.contains('@')) {
            *image = format!("{image}@{}", found.digest);
            pinned.push(name.to_owned());
        }
    });
    if !pinned.is_empty() && template.is_object() {
        let annotations = json!({PINNED_CONTAINERS_ANNOTATION: pinned.join(",")});
        json_patch::merge(template, &json!({"metadata": {"annotations": annotations}}));
    }
}

/// Removes the digests that were added, and the annotation.
pub fn unpin(template: &mut Value) {
    let names = pinned_containers(template);
    remove_annotation(template);
    for_each_container(template, |name, image| {
        if names.iter().any(|pinned| pinned == name)
            && let Some((tag, _)) = image.split_once('@')
        {
            *image = tag.to_owned();
        }
    });
}

/// The lists of containers without the digests that were added, to be merged into the pod spec.
/// `None` if none was added.
pub fn unpinned_containers(template: &Value) -> Option<Value> {
    if pinned_containers(template).is_empty() {
        return None;
    }
    let mut template = template.clone();
    unpin(&mut template);
    let lists = LISTS.iter().filter_map(|list| {
        let containers = template.get("spec")?.get(list)?.clone();
        Some(((*list).to_owned(), containers))
    });
    Some(Value::Object(lists.collect()))
}

fn pinned_containers(template: &Value) -> Vec<String> {
    let names = &template["metadata"]["annotations"][PINNED_CONTAINERS_ANNOTATION];
    let names = names.as_str().unwrap_or_default().split(',');
    let names = names.filter(|name| !name.is_empty());
    names.map(ToOwned::to_owned).collect()
}

fn remove_annotation(template: &mut Value) {
    let annotations = template.pointer_mut("/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.remove(PINNED_CONTAINERS_ANNOTATION);
    }
}

/// Calls `change` with the name and the image of every container.
fn for_each_container(template: &mut Value, mut change: impl FnMut(&str, &mut String)) {
    for list in LISTS {
        let containers = template
            .get_mut("spec")
            .and_then(|spec| spec.get_mut(list))
            .and_then(Value::as_array_mut);
        let containers = containers.into_iter().flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            change_image(container, &mut change);
        }
    }
}

fn change_image(container: &mut Map<String, Value>, change: &mut impl FnMut(&str, &mut String)) {
    let name = container.get("name").and_then(Value::as_str);
    let name = name.unwrap_or_default().to_owned();
    if let Some(Value::String(image)) = container.get_mut("image") {
        change(&name, image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:12";

    fn written() -> Value {
        json!({
            "metadata": {"labels": {"app": "checkout"}},
            "spec": {
                "containers": [
                    {"name": "app", "image": "reg:5000/app:v1"},
                    {"name": "proxy", "image": "proxy@sha256:34"},
                    {"name": "other", "image": "other:v1"},
                ],
                "initContainers": [{"name": "init", "image": "reg:5000/app:v1"}],
            },
        })
    }

    fn images() -> Vec<PinnedImage> {
        ["reg:5000/app:v1", "proxy@sha256:34"]
            .map(|image| PinnedImage {
                image: image.to_owned(),
                digest: DIGEST.to_owned(),
            })
            .into()
    }

    #[test]
    fn known_tags_get_their_digest_and_lose_it_again() {
        let mut template = written();
        pin(&mut template, &images());
        let image = |pointer: &str| template.pointer(pointer).unwrap().as_str().unwrap();
        assert_eq!(
            image("/spec/containers/0/image"),
            "reg:5000/app:v1@sha256:12"
        );
        assert_eq!(image("/spec/containers/1/image"), "proxy@sha256:34");
        assert_eq!(image("/spec/containers/2/image"), "other:v1");
        assert_eq!(
            image("/spec/initContainers/0/image"),
            "reg:5000/app:v1@sha256:12"
        );
        let annotations = &template["metadata"]["annotations"];
        assert_eq!(
            annotations,
            &json!({PINNED_CONTAINERS_ANNOTATION: "app,init"})
        );
        let unpinned = unpinned_containers(&template).unwrap();
        assert_eq!(unpinned, written()["spec"]);
        unpin(&mut template);
        let mut expected = written();
        expected["metadata"]["annotations"] = json!({});
        assert_eq!(template, expected);
    }

    #[test]
    fn a_template_without_added_digests_stays_as_it_is() {
        let mut template = written();
        pin(&mut template, &[]);
        assert_eq!(template, written());
        unpin(&mut template);
        assert_eq!(template, written());
        assert_eq!(unpinned_containers(&template), None);
        let mut nothing = Value::Null;
        pin(&mut nothing, &images());
        unpin(&mut nothing);
        assert_eq!(nothing, Value::Null);
    }

    #[test]
    fn an_annotation_of_the_user_removes_no_digest_of_the_user() {
        let mut template = written();
        template["metadata"]["annotations"] = json!({PINNED_CONTAINERS_ANNOTATION: "proxy"});
        pin(&mut template, &[]);
        unpin(&mut template);
        assert_eq!(template["spec"], written()["spec"]);
    }
}
