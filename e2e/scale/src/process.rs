//! Child processes and their use of the machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The kernel reports CPU time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// util-linux. It ends a process when its parent ends, also when the parent is killed.
const SETPRIV: &str = "/usr/bin/setpriv";

/// A running child process. It is killed on drop.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    child: Child,
    pid: u32,
    log: PathBuf,
}

/// What to start.
pub(crate) struct ProcessCommand<'a> {
    pub(crate) name: &'static str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) env: Vec<(&'static str, String)>,
    /// The log file, to which the output is appended.
    pub(crate) log: PathBuf,
    /// The working directory and the home.
    pub(crate) folder: &'a Path,
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    /// If the program or the log cannot be opened.
    pub(crate) fn start(start: ProcessCommand<'_>) -> Result<Self> {
        let output = File::options().create(true).append(true).open(&start.log)?;
        let mut command = if Path::new(SETPRIV).is_file() {
            let mut command = Command::new(SETPRIV);
            command
                .args(["--pdeathsig", "KILL", "--"])
                .arg(start.program);
            command
        } else {
            Command::new(start.program)
        };
        command
            .args(start.arguments)
            .env("HOME", start.folder)
            .envs(start.env)
            .current_dir(start.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        // Ctrl-C reaches only the parent, which stops the others in order.
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", start.program.display()))?;
        let pid = child.id().context("the process has ended")?;
        Ok(Self {
            name: start.name,
            child,
            pid,
            log: start.log,
        })
    }

    /// Fails if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(15)..].join("\n");
                bail!(
                    "{} has ended ({status}); the end of {}:\n{end}",
                    self.name,
                    self.log.display()
                )
            }
        }
    }

    /// CPU time since its start in seconds, of all threads.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&format!("/proc/{}/stat", self.pid))
    }

    /// Resident memory in MiB: now, and the maximum since [`Self::reset_peak`] or the start.
    pub(crate) fn memory_mib(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("{} has ended", self.name))?;
        let now = status_mib(&status, "VmRSS:").context("no VmRSS")?;
        let peak = status_mib(&status, "VmHWM:").context("no VmHWM")?;
        Ok((now, peak))
    }

    /// Starts a new measurement of the maximum of the resident memory.
    pub(crate) fn reset_peak(&self) {
        // If the kernel refuses, the maximum since the start of the process is reported.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        kill_process(pid.context("invalid process id")?, signal)?;
        Ok(())
    }

    /// Waits until it has ended after a signal, and kills it after `limit`.
    pub(crate) async fn reap(mut self, limit: Duration) -> Result<()> {
        if timeout(limit, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }

    /// Stops it with SIGTERM, and kills it after `limit`.
    pub(crate) async fn stop(self, limit: Duration) -> Result<()> {
        // It may have ended already.
        let _ = self.signal(Signal::TERM);
        self.reap(limit).await
    }
}

/// CPU time of this process in seconds.
pub(crate) fn own_cpu_seconds() -> Result<f64> {
    cpu_seconds("/proc/self/stat")
}

/// CPU time of the whole machine in seconds since its start, without idle time.
pub(crate) fn machine_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    busy_seconds(&stat).context("/proc/stat has no CPU time")
}

fn cpu_seconds(path: &str) -> Result<f64> {
    let stat = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu_seconds(&stat).with_context(|| format!("{path} has no CPU time"))
}

/// `utime` and `stime` of `proc_pid_stat(5)`, counted from the state, which follows the name in
/// parentheses.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).take(2);
    let user: f64 = ticks.next()?.parse().ok()?;
    let system: f64 = ticks.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// `user`, `nice`, `system`, `irq` and `softirq` of the first line of `proc_stat(5)`.
fn busy_seconds(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6].map(|index| ticks.get(index).copied().unwrap_or_default());
    Some(busy.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn status_mib(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_after_a_name_with_parentheses() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 7 8 20 0 9 0 100";
        assert_eq!(parse_cpu_seconds(stat), Some(3.0));
        assert_eq!(parse_cpu_seconds("7 (a) S"), None);
    }

    #[test]
    fn the_machine_is_busy_except_when_idle_or_waiting() {
        let stat = "cpu  100 200 300 9999 8888 10 20 77 0 0\ncpu0 1 2 3";
        assert_eq!(busy_seconds(stat), Some(6.3));
    }

    #[test]
    fn memory_is_read_in_mib() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(status_mib(status, "VmHWM:"), Some(2.0));
        assert_eq!(status_mib(status, "VmSwap:"), None);
    }

    #[tokio::test]
    async fn a_process_is_measured_and_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(ProcessCommand {
            name: "sleep",
            program: Path::new("/bin/sleep"),
            arguments: vec!["60".into()],
            env: Vec::new(),
            log: folder.path().join("log"),
            folder: folder.path(),
        })
        .unwrap();
        process.check().unwrap();
        process.reset_peak();
        assert!(process.cpu_seconds().unwrap() < 5.0);
        let (now, peak) = process.memory_mib().unwrap();
        assert!(now > 0.0 && peak >= now);
        process.stop(Duration::from_secs(5)).await.unwrap();
    }
}
