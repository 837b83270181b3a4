//! The options that every command takes, as kubectl's own: where to look, and how it shall look.

use std::path::PathBuf;

use clap::Args;

/// Where to look, and how it shall look. In the help they stand behind the command's own.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalOptions {
    /// The namespace; the kubeconfig context's own without it
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The kubeconfig context to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig file to use [default: $KUBECONFIG, then ~/.kube/config, then the pod's own
    /// account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The user to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Print without colours (NO_COLOR in the environment does the same)
    #[arg(long, global = true)]
    pub no_color: bool,
}
