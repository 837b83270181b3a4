//! Completion of command lines, for the shells that kubectl supports.
//!
//! kubectl completes the words of a plugin by a program `kubectl_complete-NAME`, which prints one
//! candidate per line and then what the shell may do. [`script`] is that program; it runs the hidden
//! command `__complete`, so that one implementation serves all shells.

use std::io::Write;

use clap::{Arg, Command};
use kube::api::ListParams;

use crate::cli::PluginProgram;
use crate::connect::{connect, send};
use crate::exit::CliError;
use crate::options::GlobalOptions;
use crate::resources::rollouts;

/// The hidden command that prints candidates.
pub const COMMAND: &str = "__complete";
/// Tells the shell not to complete file names.
const NO_FILES: &str = ":4";
/// Tells the shell to complete file names.
const FILES: &str = ":0";
/// Maximum number of Rollouts that are offered.
const MAX_NAMES: u32 = 500;

/// The program that kubectl runs to complete the words of a plugin.
pub fn script(program: PluginProgram) -> String {
    let prefix = match program {
        PluginProgram::Serin => "",
        PluginProgram::Promote => " promote",
        PluginProgram::Abort => " abort",
    };
    format!("#!/bin/sh\nexec kubectl serin {COMMAND}{prefix} \"$@\"\n")
}

/// Prints the candidates for the last of `words`.
///
/// # Errors
/// The output cannot be written. Candidates that cannot be read are left out, because a shell would
/// show an error between the words.
pub async fn complete(words: &[String], out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let mut program = crate::cli::command();
    program.build();
    let completion = Completion::for_words(&program, words);
    let last = words.last().map_or("", String::as_str);
    let mut candidates = completion.candidates;
    if completion.wants_rollouts {
        candidates.extend(rollout_names(&completion.options).await);
    }
    for (candidate, help) in candidates {
        if candidate.starts_with(last) {
            writeln!(out, "{candidate}\t{help}")?;
        }
    }
    writeln!(
        out,
        "{}",
        if completion.wants_files {
            FILES
        } else {
            NO_FILES
        }
    )?;
    Ok(())
}

/// The names of the Rollouts, without a description.
async fn rollout_names(options: &GlobalOptions) -> Vec<(String, String)> {
    let Ok(connection) = connect(options).await else {
        return Vec::new();
    };
    let api = rollouts(connection.client, &connection.namespace);
    let params = ListParams::default().limit(MAX_NAMES);
    let listed = send("list Rollouts", api.list_metadata(&params)).await;
    let items = listed.map(|list| list.items).unwrap_or_default();
    let names = items.into_iter().filter_map(|item| item.metadata.name);
    names.map(|name| (name, String::new())).collect()
}

/// What the last word can be.
#[derive(Debug, Default)]
struct Completion {
    /// Candidates with their descriptions.
    candidates: Vec<(String, String)>,
    wants_rollouts: bool,
    wants_files: bool,
    /// The options that are typed already.
    options: GlobalOptions,
}

impl Completion {
    fn for_words(program: &Command, words: &[String]) -> Self {
        let mut completion = Self::default();
        let Some((last, typed)) = words.split_last() else {
            return completion;
        };
        let mut command = program;
        let mut positional = 0;
        // The option whose value is next.
        let mut awaits_value: Option<&Arg> = None;
        for word in typed {
            if let Some(option) = awaits_value.take() {
                completion.record(option, word);
            } else if let Some(flag) = word.strip_prefix('-') {
                let (option, value) = find_option(command, flag);
                match (option, value) {
                    (Some(option), Some(value)) => completion.record(option, value),
                    (Some(option), None) if option.get_action().takes_values() => {
                        awaits_value = Some(option);
                    }
                    _ => {}
                }
            } else if let Some(inner) = command.find_subcommand(word) {
                command = inner;
            } else {
                positional += 1;
            }
        }
        match awaits_value {
            Some(option) => completion.offer_values(option),
            None if last.starts_with('-') => completion.offer_options(command),
            None if command.has_subcommands() => completion.offer_commands(command),
            None => {
                let argument = command.get_positionals().nth(positional);
                if let Some(argument) = argument {
                    completion.offer_values(argument);
                }
            }
        }
        completion
    }

    fn record(&mut self, option: &Arg, value: &str) {
        match option.get_id().as_str() {
            "namespace" => self.options.namespace = Some(value.to_owned()),
            "context" => self.options.context = Some(value.to_owned()),
            "kubeconfig" => self.options.kubeconfig = Some(value.into()),
            "impersonate" => self.options.impersonate = Some(value.to_owned()),
            _ => {}
        }
    }

    fn offer_values(&mut self, argument: &Arg) {
        let values = argument.get_possible_values();
        let visible = values.iter().filter(|value| !value.is_hide_set());
        self.candidates.extend(visible.map(|value| {
            let help = value.get_help().map(ToString::to_string);
            (value.get_name().to_owned(), help.unwrap_or_default())
        }));
        let names = argument.get_value_names().unwrap_or_default();
        let is_named = |name: &str| names.iter().any(|one| one.as_str() == name);
        self.wants_rollouts = argument.is_positional() && is_named("NAME");
        self.wants_files = is_named("FILE");
    }

    fn offer_options(&mut self, command: &Command) {
        let options = command
            .get_arguments()
            .filter(|option| !option.is_hide_set());
        self.candidates.extend(options.filter_map(|option| {
            let help = option.get_help().map(ToString::to_string);
            let help = help.unwrap_or_default().replace('\n', " ");
            Some((format!("--{}", option.get_long()?), help))
        }));
    }

    fn offer_commands(&mut self, command: &Command) {
        let commands = command.get_subcommands();
        let visible = commands.filter(|command| !command.is_hide_set());
        self.candidates.extend(visible.map(|command| {
            let about = command.get_about().map(ToString::to_string);
            let about = about.unwrap_or_default().replace('\n', " ");
            (command.get_name().to_owned(), about)
        }));
    }
}

/// The option that a word without its first dash names, and the value after an equals sign.
fn find_option<'a, 'w>(command: &'a Command, flag: &'w str) -> (Option<&'a Arg>, Option<&'w str>) {
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    };
    let mut options = command.get_arguments();
    let option = match name.strip_prefix('-') {
        Some(long) => options.find(|option| option.get_long() == Some(long)),
        None => {
            let short = name.chars().next();
            options.find(|option| option.get_short().is_some() && option.get_short() == short)
        }
    };
    (option, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(line: &str) -> Completion {
        let mut program = crate::cli::command();
        program.build();
        let words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
        Completion::for_words(&program, &words)
    }

    fn names(completion: &Completion) -> Vec<&str> {
        let candidates = completion.candidates.iter();
        candidates.map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn commands_options_values_and_rollouts_are_offered() {
        let commands = completion("");
        assert!(names(&commands).contains(&"undo"));
        assert!(!names(&commands).contains(&COMMAND));
        assert!(names(&completion("set ")).contains(&"image"));
        let options = completion("status checkout --");
        assert!(names(&options).contains(&"--watch") && names(&options).contains(&"--namespace"));
        assert!(names(&completion("status checkout -o ")).contains(&"json"));
        let rollouts = completion("-n shop --context=prod promote ");
        assert!(rollouts.wants_rollouts);
        assert_eq!(rollouts.options.namespace.as_deref(), Some("shop"));
        assert_eq!(rollouts.options.context.as_deref(), Some("prod"));
        assert!(!completion("promote checkout ").wants_rollouts);
        assert!(completion("lint -f ").wants_files);
    }

    #[tokio::test]
    async fn candidates_begin_with_the_last_word_and_end_with_a_directive() {
        let mut out = Vec::new();
        let words = ["und".to_owned()];
        complete(&words, &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("undo\t"), "{text}");
        assert_eq!(lines[1..], [NO_FILES]);
    }

    #[test]
    fn the_script_is_for_one_of_the_programs() {
        assert_eq!(
            script(PluginProgram::Promote),
            "#!/bin/sh\nexec kubectl serin __complete promote \"$@\"\n"
        );
    }
}
