//! The settings of Argo CD for Rollouts: health and actions, assembled from the Lua scripts in
//! `gitops/argocd`.

const HEALTH: &str = include_str!("../argocd/health.lua");
const DISCOVERY: &str = include_str!("../argocd/actions/discovery.lua");
const ACTION: &str = include_str!("../argocd/actions/action.lua");

/// The first line of the script of an action, which selects its verb.
const VERB_LINE: &str = "local verb = \"abort\"\n";

/// The actions: name in Argo CD, and verb of the RolloutCommand.
pub const ACTIONS: [(&str, &str); 8] = [
    ("abort", "abort"),
    ("pause", "pause"),
    ("promote", "promote"),
    ("promote-full", "promoteFull"),
    ("restart", "restart"),
    ("resume", "resume"),
    ("retry", "retry"),
    ("skip-step", "skipStep"),
];

/// The script of the action with a verb.
pub fn action(verb: &str) -> String {
    ACTION.replacen(VERB_LINE, &format!("local verb = \"{verb}\"\n"), 1)
}

/// The ConfigMap of Argo CD: path from the root of the workspace, and content.
pub fn config_map() -> (&'static str, String) {
    let mut text = String::from(
        "# Generated from gitops/argocd by `cargo xtask codegen`. Do not edit.\n\
         # Merge data into your argocd-cm.\n\
         apiVersion: v1\n\
         kind: ConfigMap\n\
         metadata:\n  \
           name: argocd-cm\n  \
           namespace: argocd\n  \
           labels:\n    \
             app.kubernetes.io/part-of: argocd\n\
         data:\n",
    );
    text.push_str("  resource.customizations.health.serin.dev_Rollout: |\n");
    text.push_str(&indented(HEALTH, 4));
    text.push_str("  resource.customizations.actions.serin.dev_Rollout: |\n");
    text.push_str("    discovery.lua: |\n");
    text.push_str(&indented(DISCOVERY, 6));
    text.push_str("    definitions:\n");
    for (name, verb) in ACTIONS {
        text.push_str(&format!("      - name: {name}\n        action.lua: |\n"));
        text.push_str(&indented(&action(verb), 10));
    }
    ("gitops/argocd/argocd-cm.yaml", text)
}

fn indented(script: &str, spaces: usize) -> String {
    let mut text = String::new();
    for line in script.lines() {
        if !line.is_empty() {
            text.push_str(&" ".repeat(spaces));
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_of_each_action_has_its_verb() {
        assert_eq!(ACTION.matches(VERB_LINE).count(), 1);
        for (_, verb) in ACTIONS {
            assert!(action(verb).contains(&format!("local verb = \"{verb}\"")));
        }
    }

    #[test]
    fn discovery_names_every_action() {
        for (name, _) in ACTIONS {
            assert!(DISCOVERY.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
