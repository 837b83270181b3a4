//! The node: the mount and network namespaces in which all components of a cluster run.
//!
//! A sleeping process holds the namespaces. Their mounts, links and nftables rules are not visible
//! outside and disappear with the last process.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use tokio::process::Command;

use crate::cgroup::Cgroups;
use crate::host::{
    UnmetCondition, command, last_lines, run, run_with_input, system_path, wait_until,
};
use crate::instance::{Cidr, Instance, Network};

/// The control group of the process that holds the namespaces.
const HOLDER_GROUP: &str = "node";

/// The sysctls that the kubelet sets, with their values. The node mounts other files over them, so
/// that the machine keeps its settings.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The folders of the host that the node replaces.
pub(crate) const REPLACED_FOLDERS: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// The script that prepares the new namespaces and then sleeps. `$1` is the folder of the node.
const PREPARE_SCRIPT: &str = r#"
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mkdir -p /run/netns /run/lock
for file in "$1"/sysctl/*; do
  target=/proc/sys/$(basename "$file" | tr . /)
  if [ -e "$target" ]; then mount --bind "$file" "$target"; fi
done
echo 1 > /proc/sys/net/ipv4/ip_forward
exec sleep infinity
"#;

/// A running node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    holder: Pid,
}

impl Node {
    /// The node whose holder runs in `cgroups`. `None` if there is no such process.
    pub(crate) fn find(cgroups: &Cgroups) -> Option<Self> {
        let holder = *cgroups.processes(HOLDER_GROUP).first()?;
        is_asleep(holder).then_some(Self { holder })
    }

    /// Creates the namespaces. `folder` is for the files of the node.
    ///
    /// # Errors
    /// If the kernel refuses, with the error message.
    pub(crate) async fn create(cgroups: &Cgroups, folder: &Path, log: &Path) -> Result<Self> {
        for part in ["lib", "log", "sysctl"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        for (name, value) in SYSCTLS {
            let file = folder.join("sysctl").join(name.replace('/', "."));
            std::fs::write(file, format!("{value}\n"))?;
        }
        let procs = cgroups.create_component(HOLDER_GROUP)?;
        let mut child = LaunchCommand::new(&procs, log)
            .program("unshare")
            .args([
                "--mount",
                "--net",
                "--propagation",
                "private",
                "sh",
                "-euc",
                PREPARE_SCRIPT,
                "sh",
            ])
            .arg(folder)
            .spawn()?;
        let holder = wait_until(
            "the node's namespaces",
            Duration::from_secs(10),
            async || {
                if let Ok(Some(status)) = child.try_wait() {
                    let log_text = std::fs::read_to_string(log).unwrap_or_default();
                    let error = anyhow::anyhow!("{status}: {}", last_lines(&log_text, 5));
                    return Err(UnmetCondition::Never(error));
                }
                Self::find(cgroups)
                    .ok_or_else(|| UnmetCondition::not_yet("the holder does not sleep yet"))
            },
        )
        .await?;
        Ok(holder)
    }

    /// Claims a free slot for the node, links it to the host, and assigns addresses to both ends.
    ///
    /// # Errors
    /// If every slot is taken or overlaps a route of the host.
    pub(crate) async fn connect(&self, instance: &Instance) -> Result<Network> {
        let routes = host_routes().await?;
        for network in instance.slots() {
            if routes.iter().any(|route| route.overlaps(network.all())) {
                continue;
            }
            if self.claim(network).await? {
                self.address(instance, network).await?;
                return Ok(network);
            }
        }
        bail!("all the address slots in 198.18.0.0/15 are taken: see `ip link` and `ip route`")
    }

    /// Claims a slot through the name of its link, which the kernel assigns once. Returns false if
    /// it is taken.
    async fn claim(&self, network: Network) -> Result<bool> {
        let link = network.link();
        let holder = self.holder.as_raw_nonzero().to_string();
        let made = run(command("ip").args([
            "link", "add", &link, "type", "veth", "peer", "name", "node0", "netns", &holder,
        ]))
        .await;
        match made {
            Ok(_) => Ok(true),
            Err(_) if Path::new("/sys/class/net").join(&link).exists() => Ok(false),
            Err(error) => Err(error.context("cannot link the node to the host")),
        }
    }

    async fn address(&self, instance: &Instance, network: Network) -> Result<()> {
        let (link, host, node) = (network.link(), network.host(), network.node());
        let alias = instance.link_alias();
        run(command("ip").args(["link", "set", &link, "alias", &alias])).await?;
        let inside = format!(
            "link set lo up\naddress add {node}/30 dev node0\nlink set node0 up\n\
             route add default via {host}\n"
        );
        run_with_input(self.inside("ip").args(["-batch", "-"]), &inside).await?;
        let outside = format!(
            "address add {host}/30 dev {link}\nlink set {link} up\nroute add {} via {node}\n",
            network.all()
        );
        run_with_input(command("ip").args(["-batch", "-"]), &outside).await?;
        Ok(())
    }

    /// A command that runs in the node, with PATH as its only environment variable.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut inside = command("nsenter");
        inside
            .args(self.enter())
            .arg(program)
            .env_clear()
            .env("PATH", system_path());
        inside
    }

    /// Starts a component in the node and in its control group. Its output goes to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) async fn start(
        &self,
        cgroups: &Cgroups,
        name: &str,
        arguments: &[String],
        log: &Path,
    ) -> Result<()> {
        let procs = cgroups.create_component(name)?;
        let mut child = LaunchCommand::new(&procs, log)
            .program("nsenter")
            .args(self.enter())
            .args(arguments)
            .spawn()?;
        wait_until(
            &format!("the start of {name}"),
            Duration::from_secs(10),
            async || {
                let ended = matches!(child.try_wait(), Ok(Some(_)));
                if ended || !cgroups.processes(name).is_empty() {
                    Ok(())
                } else {
                    Err(UnmetCondition::not_yet("not in its control group yet"))
                }
            },
        )
        .await
    }

    fn enter(&self) -> [String; 5] {
        let holder = self.holder.as_raw_nonzero().to_string();
        [
            "--target".into(),
            holder,
            "--mount".into(),
            "--net".into(),
            "--".into(),
        ]
    }
}

/// Whether the link of `network` belongs to this instance.
pub(crate) fn is_linked(instance: &Instance, network: Network) -> bool {
    let folder = PathBuf::from("/sys/class/net").join(network.link());
    let alias = std::fs::read_to_string(folder.join("ifalias")).unwrap_or_default();
    alias.trim_end() == instance.link_alias()
}

/// Removes the links of this instance whose node no longer exists.
pub(crate) async fn remove_links(instance: &Instance) -> Result<()> {
    for network in instance.slots() {
        if is_linked(instance, network) {
            // The link may disappear concurrently with the last process of its node.
            let removed = run(command("ip").args(["link", "delete", &network.link()])).await;
            if let Err(error) = removed
                && is_linked(instance, network)
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The IPv4 networks that the host has routes for, except the default route.
async fn host_routes() -> Result<Vec<Cidr>> {
    let text = run(command("ip").args(["-4", "route", "show", "table", "all"])).await?;
    Ok(parse_routes(&text))
}

fn parse_routes(text: &str) -> Vec<Cidr> {
    const KINDS: [&str; 6] = [
        "unicast",
        "local",
        "broadcast",
        "unreachable",
        "blackhole",
        "prohibit",
    ];
    text.lines()
        .filter_map(|line| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| KINDS.contains(word));
            Cidr::parse(words.next()?)
        })
        .filter(|route| *route != Cidr::new(Ipv4Addr::UNSPECIFIED, 0))
        .collect()
}

fn is_asleep(process: Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero()));
    name.is_ok_and(|name| name.trim_end() == "sleep")
}

/// Starts a program that outlives this process, directly in a control group.
struct LaunchCommand {
    command: Command,
    log: PathBuf,
}

impl LaunchCommand {
    fn new(procs: &Path, log: &Path) -> Self {
        let mut command = command("sh");
        command
            .args(["-euc", "echo $$ > \"$1\"; shift; exec \"$@\"", "sh"])
            .arg(procs)
            .env_clear()
            .env("PATH", system_path())
            .env("HOME", "/root")
            .current_dir("/")
            .process_group(0);
        Self {
            command,
            log: log.to_owned(),
        }
    }

    fn program(mut self, name: &str) -> Self {
        self.command.arg(name);
        self
    }

    fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    fn spawn(mut self) -> Result<tokio::process::Child> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        self.command
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .context("cannot run sh")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_every_kind_are_parsed() {
        let text = "default via 192.0.2.1 dev eth0\n\
            192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2\n\
            198.18.4.0/22 via 198.18.4.2 dev serin1\n\
            unreachable 10.0.0.0/8\n\
            local 127.0.0.1 dev lo table local proto kernel scope host\n";
        let routes: Vec<String> = parse_routes(text).iter().map(Cidr::to_string).collect();
        assert_eq!(
            routes,
            [
                "192.0.2.0/24",
                "198.18.4.0/22",
                "10.0.0.0/8",
                "127.0.0.1/32"
            ]
        );
    }

    #[test]
    fn a_process_that_is_not_sleep_is_not_the_holder() {
        assert!(!is_asleep(rustix::process::getpid()));
    }
}
