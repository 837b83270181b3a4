//! `kubectl serin set image`: changes images in the pod template.
//!
//! `kubectl set image` knows only the built-in kinds of workload.

use std::io::Write;

use serde_json::{Value, json};

use crate::cli::{ContainerImage, SetImageArgs};
use crate::connect::Connection;
use crate::display_text::printable;
use crate::exit::{CliError, Exit};
use crate::resources::read_rollout;
use crate::style;
use crate::template_owner::TemplateOwner;

/// The lists of containers whose images can be set.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Changes images in the pod template.
///
/// # Errors
/// A container does not exist, or an object cannot be read or changed.
pub async fn set_image(
    connection: &Connection,
    args: &SetImageArgs,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    // Names a similar Rollout if there is none of this name.
    read_rollout(connection, &args.name).await?;
    let owner = TemplateOwner::read(connection, &args.name).await?;
    let operations = operations(owner.template(), &args.images)?;
    if operations.is_empty() {
        writeln!(out, "{}: the images are set already", owner.label)?;
        return Ok(());
    }
    owner.patch(operations).await?;
    writeln!(out, "{}: image updated", owner.label)?;
    if let Some(warning) = owner.git_warning() {
        writeln!(out, "{}", style::warning(&printable(&warning)))?;
    }
    Ok(())
}

/// The patch operations, without those that change nothing.
fn operations(template: &Value, images: &[ContainerImage]) -> Result<Vec<Value>, CliError> {
    let mut operations = Vec::new();
    for wanted in images {
        let mut is_found = false;
        for list in LISTS {
            let containers = template["spec"][list].as_array().into_iter().flatten();
            for (index, container) in containers.enumerate() {
                let name = container["name"].as_str().unwrap_or_default();
                if !wanted.is_for(name) {
                    continue;
                }
                is_found = true;
                if container["image"] != wanted.image.as_str() {
                    let path = format!("/spec/template/spec/{list}/{index}/image");
                    operations.push(json!({"op": "add", "path": path, "value": wanted.image}));
                }
            }
        }
        if !is_found {
            return Err(no_such_container(template, &wanted.container));
        }
    }
    Ok(operations)
}

fn no_such_container(template: &Value, wanted: &str) -> CliError {
    let containers = LISTS.map(|list| template["spec"][list].as_array());
    let containers = containers.into_iter().flatten().flatten();
    let names: Vec<_> = containers
        .filter_map(|container| container["name"].as_str())
        .map(printable)
        .collect();
    CliError::new(
        Exit::Usage,
        format!("the template has no container {wanted}"),
    )
    .hint(format!("The containers are: {}.", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(texts: &[&str]) -> Vec<ContainerImage> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn images_are_set_by_container_or_for_all() {
        let template = json!({"spec": {
            "containers": [{"name": "app", "image": "app:1"}, {"name": "proxy", "image": "p:1"}],
            "initContainers": [{"name": "migrate", "image": "app:1"}],
        }});
        let set = |texts: &[&str]| {
            let operations = operations(&template, &images(texts)).unwrap();
            let describe =
                |operation: &Value| format!("{} {}", operation["path"], operation["value"]);
            operations.iter().map(describe).collect::<Vec<_>>()
        };
        assert_eq!(
            set(&["app=app:2", "migrate=app:2"]),
            [
                "\"/spec/template/spec/containers/0/image\" \"app:2\"",
                "\"/spec/template/spec/initContainers/0/image\" \"app:2\"",
            ]
        );
        assert_eq!(set(&["proxy=p:1"]), Vec::<String>::new());
        assert_eq!(set(&["*=x:1"]).len(), 3);
        let error = operations(&template, &images(&["web=x"])).unwrap_err();
        assert_eq!(error.message, "the template has no container web");
        assert_eq!(error.hints, ["The containers are: app, proxy, migrate."]);
    }
}
