//! The reference page of the kubectl plugin's options, from its command line definition.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// The options of every command, as Markdown.
pub(super) fn options() -> String {
    let program = serin_kubectl::cli::command();
    let mut text = String::from(
        "# Options of the kubectl plugin\n\n`--help` of each command shows the same texts. \
         [kubectl plugin](kubectl.md) describes the commands with examples. `kubectl promote` and \
         `kubectl abort` have the options of `kubectl serin promote` and `kubectl serin abort`.\n",
    );
    for (name, command) in commands(&program, "") {
        let _ = write!(text, "\n## {name}\n\n");
        if let Some(about) = command.get_about() {
            let _ = writeln!(text, "{}.\n", one_line(&about.to_string()));
        }
        let aliases: Vec<String> = command
            .get_visible_aliases()
            .map(|alias| format!("`{alias}`"))
            .collect();
        if !aliases.is_empty() {
            let _ = writeln!(text, "Alias: {}.\n", aliases.join(", "));
        }
        write_arguments(&mut text, command);
    }
    let _ = write!(text, "\n## Options of every command\n\n");
    write_arguments(&mut text, &program);
    text
}

/// All commands with their names, nested ones as `outer inner`, in order of the names.
fn commands<'a>(parent: &'a Command, prefix: &str) -> Vec<(String, &'a Command)> {
    let visible = parent.get_subcommands();
    let visible = visible.filter(|command| !command.is_hide_set());
    let named = visible.map(|command| {
        let name = format!("{prefix}{}", command.get_name());
        let inner = commands(command, &format!("{name} "));
        std::iter::once((name, command)).chain(inner)
    });
    let mut all: Vec<_> = named.flatten().collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

fn write_arguments(text: &mut String, command: &Command) {
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    let mut arguments = arguments.peekable();
    if arguments.peek().is_none() {
        return;
    }
    text.push_str("| option | meaning |\n|---|---|\n");
    for argument in arguments {
        let _ = writeln!(text, "| `{}` | {} |", syntax(argument), meaning(argument));
    }
}

/// The option as a user types it, for example `-o, --output FORMAT`.
fn syntax(argument: &Arg) -> String {
    let value = argument
        .get_value_names()
        .filter(|_| argument.get_action().takes_values())
        .map(|names| names.join(" "))
        .unwrap_or_default();
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let text = format!("{} {value}", flags.join(", "));
    text.trim().to_owned()
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_help().map(ToString::to_string);
    let mut text = one_line(&help.unwrap_or_default());
    text.push('.');
    if argument.is_required_set() {
        text.push_str(" Required.");
    }
    if argument.get_action().takes_values() {
        let values = argument.get_possible_values();
        if !values.is_empty() {
            let names = values.iter().map(|value| format!("`{}`", value.get_name()));
            let _ = write!(text, " One of {}.", names.collect::<Vec<_>>().join(", "));
        }
        if let Some(default) = argument.get_default_values().first() {
            let _ = write!(text, " Defaults to `{}`.", default.to_string_lossy());
        }
    }
    text.replace('|', "\\|")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_listed_with_its_syntax_default_and_values() {
        let page = options();
        for line in [
            "| `--timeout DURATION` | Maximum time to wait for the outcome, for example 30s or 5m. \
             Defaults to `30s`. |",
            "| `-o, --output FORMAT` | Machine-readable output format. One of `json`, `yaml`. |",
            "| `-w, --watch` |",
            "| `NAME` | The Rollout. Required. |",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }

    #[test]
    fn every_command_of_the_plugin_has_a_section() {
        let page = options();
        let program = serin_kubectl::cli::command();
        for (name, _) in commands(&program, "") {
            assert!(page.contains(&format!("\n## {name}\n")), "{name}");
        }
        assert!(page.contains("\n## requests convert\n"));
    }
}
