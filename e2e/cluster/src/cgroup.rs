//! The control groups of a cluster, which track its processes.
//!
//! Unlike pid files, control groups are never out of date: they disappear when the machine
//! restarts, survive the program that started a process, and include every child process. Each
//! component has a group inside the group of the cluster. The kubelet creates the groups of pods
//! next to them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::host::{UnmetCondition, wait_until};

/// The groups of one cluster in all hierarchies of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    name: String,
    /// The hierarchy that tracks components. One hierarchy is enough.
    tracking: PathBuf,
    /// All hierarchies: the kubelet needs its root group in each, and pods have groups in each.
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    /// The groups with this name, which may not exist.
    ///
    /// # Errors
    /// If no control groups are mounted.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let mounts =
            fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let hierarchies = hierarchies(&mounts);
        let tracking = tracking(&hierarchies)
            .context("no control groups are mounted under /sys/fs/cgroup")?
            .clone();
        Ok(Self {
            name: name.to_owned(),
            tracking,
            hierarchies,
        })
    }

    /// Creates the group of the cluster in every hierarchy.
    pub(crate) fn create(&self) -> Result<()> {
        for root in self.roots() {
            fs::create_dir_all(&root)
                .with_context(|| format!("cannot create {}", root.display()))?;
        }
        Ok(())
    }

    /// Creates the group of a component. Returns the file for process ids.
    pub(crate) fn create_component(&self, component: &str) -> Result<PathBuf> {
        let folder = self.tracking.join(&self.name).join(component);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder.join("cgroup.procs"))
    }

    /// The processes of a component. Empty if it does not run.
    pub(crate) fn processes(&self, component: &str) -> Vec<Pid> {
        processes_in(&self.tracking.join(&self.name).join(component))
    }

    /// Sends a signal to every process of a component. Returns the number of processes.
    pub(crate) fn signal(&self, component: &str, signal: Signal) -> usize {
        signal_all(&self.processes(component), signal)
    }

    /// Kills every process of a component and waits until they have ended.
    pub(crate) async fn kill_component(&self, component: &str) -> Result<()> {
        wait_until(
            &format!("the end of {component}"),
            Duration::from_secs(10),
            async || match self.signal(component, Signal::KILL) {
                0 => Ok(()),
                left => Err(UnmetCondition::not_yet(format!(
                    "{left} processes still run"
                ))),
            },
        )
        .await
    }

    /// Kills every process of the cluster, including pods, and removes its groups.
    pub(crate) async fn destroy(&self) -> Result<()> {
        wait_until(
            "the end of every process",
            Duration::from_secs(20),
            async || {
                let mut left = 0;
                for root in self.roots() {
                    for folder in folders_below(&root) {
                        left += signal_all(&processes_in(&folder), Signal::KILL);
                    }
                }
                if left == 0 {
                    Ok(())
                } else {
                    Err(UnmetCondition::not_yet(format!(
                        "{left} processes still run"
                    )))
                }
            },
        )
        .await?;
        wait_until(
            "the end of the control groups",
            Duration::from_secs(20),
            async || {
                let roots: Vec<PathBuf> = self.roots().collect();
                match roots.iter().try_for_each(|root| remove(root)) {
                    Ok(()) => Ok(()),
                    Err(error) => Err(UnmetCondition::not_yet(format!("{error:#}"))),
                }
            },
        )
        .await
    }

    /// Whether a group of the cluster exists.
    pub(crate) fn exists(&self) -> bool {
        self.roots().any(|root| root.exists())
    }

    fn roots(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| hierarchy.join(&self.name))
    }
}

/// The mount points of control groups, from a table of mounts as in `/proc/mounts`.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(folder), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        let folder = PathBuf::from(folder);
        if matches!(kind, "cgroup" | "cgroup2")
            && folder.starts_with("/sys/fs/cgroup")
            && !found.contains(&folder)
        {
            found.push(folder);
        }
    }
    found
}

/// The hierarchy that tracks processes: version 2, or a version 1 hierarchy that always allows
/// moves.
fn tracking(hierarchies: &[PathBuf]) -> Option<&PathBuf> {
    let ending = |name: &str| hierarchies.iter().find(|folder| folder.ends_with(name));
    ending("pids")
        .or_else(|| ending("freezer"))
        .or_else(|| hierarchies.first())
}

/// Whether a process is stopped by a signal.
pub(crate) fn is_suspended(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| state_letter(&stat) == Some('T'))
}

/// The state in `/proc/PID/stat`. It follows the name in parentheses, which may contain any
/// character.
fn state_letter(stat: &str) -> Option<char> {
    let (_, after) = stat.rsplit_once(')')?;
    after.trim_start().chars().next()
}

fn processes_in(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
        .collect()
}

fn signal_all(processes: &[Pid], signal: Signal) -> usize {
    for process in processes {
        // The process may have ended already.
        let _ = kill_process(*process, signal);
    }
    processes.len()
}

/// A folder and all folders below it, deepest first.
fn folders_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(root) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(folders_below(&entry.path()));
            }
        }
        found.push(root.to_owned());
    }
    found
}

fn remove(root: &Path) -> Result<()> {
    for folder in folders_below(root) {
        match fs::remove_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_found() {
        let first = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        let folders = hierarchies(first);
        assert_eq!(folders.len(), 3);
        assert_eq!(
            tracking(&folders).unwrap(),
            Path::new("/sys/fs/cgroup/pids")
        );
        let second = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(tracking(&second).unwrap(), Path::new("/sys/fs/cgroup"));
        assert_eq!(tracking(&hierarchies("proc /proc proc rw 0 0\n")), None);
    }

    #[test]
    fn the_process_state_is_parsed_after_any_name() {
        assert_eq!(state_letter("12 (a) T (b) S 1 2"), Some('S'));
        assert_eq!(state_letter("12 (etcd) T 1 2"), Some('T'));
        assert_eq!(state_letter(""), None);
        assert!(!is_suspended(rustix::process::getpid()));
    }

    #[test]
    fn folders_are_listed_deepest_first() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("kubepods/burstable");
        fs::create_dir_all(&deep).unwrap();
        let order = folders_below(root.path());
        assert_eq!(order.first(), Some(&deep));
        assert_eq!(order.last().map(PathBuf::as_path), Some(root.path()));
        remove(root.path()).unwrap();
        assert!(!root.path().exists());
        assert!(folders_below(root.path()).is_empty());
    }
}
