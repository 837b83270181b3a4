//! Arguments of the commands for revisions and their templates, and of completion.

use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

/// `history`.
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Show what a return to this revision changes in the pod template; for the current revision,
    /// what it has changed. The beginning of the name is enough
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Show the whole pod template of the revision
    #[arg(long, requires = "revision")]
    pub template: bool,
}

/// `undo`.
#[derive(Args, Clone, Debug)]
pub struct UndoArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Return to this revision, as listed by `history`. The beginning of the name is enough
    /// [default: stable during a release, otherwise the one that was promoted before]
    #[arg(long, value_name = "REVISION")]
    pub to_revision: Option<String>,
    /// Show what would change in the pod template, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `set ...`.
#[derive(Clone, Debug, Subcommand)]
pub enum SetTask {
    /// Change images in the pod template, which starts a release
    Image(SetImageArgs),
}

/// `set image`.
#[derive(Args, Clone, Debug)]
pub struct SetImageArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The container and its image, for example app=shop/checkout:2; `*` stands for all containers
    #[arg(required = true, value_name = "CONTAINER=IMAGE")]
    pub images: Vec<ContainerImage>,
}

/// A container and the image that it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerImage {
    /// The name of the container, or `*`.
    pub container: String,
    /// The image.
    pub image: String,
}

impl ContainerImage {
    /// Whether the image is for the container with this name.
    pub fn is_for(&self, container: &str) -> bool {
        self.container == "*" || self.container == container
    }
}

impl FromStr for ContainerImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((container, image)) if !container.is_empty() && !image.is_empty() => Ok(Self {
                container: container.to_owned(),
                image: image.to_owned(),
            }),
            _ => Err("write CONTAINER=IMAGE, for example app=shop/checkout:2".to_owned()),
        }
    }
}

/// `completion`.
#[derive(Args, Clone, Debug)]
pub struct CompletionArgs {
    /// The program whose words are completed
    #[arg(value_enum, default_value_t = PluginProgram::Serin)]
    pub program: PluginProgram,
}

/// `__complete`.
#[derive(Args, Clone, Debug)]
pub struct CompleteArgs {
    /// The words after the name of the plugin. The last one may be incomplete
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// A program of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PluginProgram {
    /// `kubectl serin`
    Serin,
    /// `kubectl promote`
    Promote,
    /// `kubectl abort`
    Abort,
}
