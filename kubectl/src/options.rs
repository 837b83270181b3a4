//! Options of every command, named as in kubectl.

use std::path::PathBuf;

use clap::Args;

/// Options of every command. The help lists them after the options of the command itself.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalOptions {
    /// The namespace [default: that of the kubeconfig context]
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The kubeconfig context to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig file to use [default: $KUBECONFIG, then ~/.kube/config, then the pod's
    /// service account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The user to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Disable colors (same as NO_COLOR in the environment)
    #[arg(long, global = true)]
    pub no_color: bool,
}
