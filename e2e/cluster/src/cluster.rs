//! The life cycle of a cluster: start, attach, remove.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::{Api, Health};
use crate::cgroup::Cgroups;
use crate::component::Component;
use crate::config::{self, MachineSettings};
use crate::host::{UnmetCondition, last_lines, run, wait_until, write_atomically};
use crate::image::Image;
use crate::instance::{Instance, Network, hex};
use crate::node::{self, Node};
use crate::objects;
use crate::paths::Paths;
use crate::pki;
use crate::prerequisites;
use crate::progress::Progress;
use crate::tools::{PAUSE_IMAGE, Programs, Tools};

/// Maximum time for a component to become healthy.
pub(crate) const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// The state of a cluster that is stored between commands.
#[derive(Serialize, Deserialize)]
struct ClusterRecord {
    slot: u8,
    /// A digest of the programs and settings that the cluster was started with.
    fingerprint: String,
}

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) instance: Instance,
    pub(crate) paths: Paths,
    pub(crate) cgroups: Cgroups,
    pub(crate) programs: Programs,
    pub(crate) network: Network,
    pub(crate) node: Node,
}

impl Cluster {
    /// Starts the cluster, or the components that do not run. Builds the programs first if they are
    /// not in the cache, and repairs the remains of a killed run. Idempotent.
    ///
    /// # Errors
    /// If a prerequisite is missing, or if a component does not become healthy. The error has the
    /// last lines of its log.
    pub async fn up(instance: Instance, progress: Progress) -> Result<Self> {
        prerequisites::require_root("up")?;
        let tools = Tools::for_checkout(instance.checkout())?;
        prerequisites::require_outside_node(instance.checkout(), "the checkout")?;
        prerequisites::require_outside_node(tools.cache(), "the cache, SERIN_CACHE_DIR")?;
        prerequisites::ensure(progress).await?;
        let programs = tools.prepare(progress).await?;
        let _lock = lock_cluster(&instance, progress).await?;
        let cluster = match Self::resume(&instance, &programs).await {
            Some(cluster) => cluster,
            None => {
                // Left over from a killed run or a restart, or started with other programs or
                // settings.
                Self::remove(
                    &instance,
                    progress,
                    "Removing a cluster that is broken or has other settings",
                )
                .await?;
                Self::create(instance, programs, progress).await?
            }
        };
        cluster.start_all(progress).await?;
        Ok(cluster)
    }

    /// The running cluster of this checkout. Does not change it.
    ///
    /// # Errors
    /// If it does not run.
    pub fn attach(instance: &Instance) -> Result<Self> {
        let found = Self::find(instance)?;
        let (cluster, _) =
            found.context("no cluster runs for this checkout: run `cargo xtask cluster up`")?;
        Ok(cluster)
    }

    /// Removes the cluster or its remains: processes, pods, mounts, links, rules and files.
    /// Idempotent.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub async fn down(instance: &Instance, progress: Progress) -> Result<()> {
        prerequisites::require_root("down")?;
        let _lock = lock_cluster(instance, progress).await?;
        Self::remove(instance, progress, "Removing the cluster").await
    }

    /// The running cluster of this checkout, and its record.
    fn find(instance: &Instance) -> Result<Option<(Self, ClusterRecord)>> {
        let paths = Paths::for_instance(instance);
        let cgroups = Cgroups::named(&instance.cgroup())?;
        let Some(node) = Node::find(&cgroups) else {
            return Ok(None);
        };
        let Ok(text) = std::fs::read_to_string(paths.record()) else {
            return Ok(None);
        };
        let record: ClusterRecord = serde_json::from_str(&text)?;
        let network = Network::new(record.slot);
        if !node::is_linked(instance, network) {
            return Ok(None);
        }
        let cluster = Self {
            instance: instance.clone(),
            programs: Tools::for_checkout(instance.checkout())?.programs()?,
            paths,
            cgroups,
            network,
            node,
        };
        Ok(Some((cluster, record)))
    }

    /// The running cluster, if it was started with these programs and settings.
    async fn resume(instance: &Instance, programs: &Programs) -> Option<Self> {
        let (cluster, record) = Self::find(instance).ok().flatten()?;
        let group = format!("/{}", instance.cgroup());
        let machine = machine_settings(&cluster.paths, cluster.network, &group)
            .await
            .ok()?;
        let now = fingerprint(programs, &cluster.paths, &machine);
        (record.fingerprint == now).then_some(cluster)
    }

    /// Creates everything that the components need, without starting them.
    async fn create(instance: Instance, programs: Programs, progress: Progress) -> Result<Self> {
        let step = progress.step("Preparing the node");
        let paths = Paths::for_instance(&instance);
        paths
            .create()
            .with_context(|| format!("cannot create {}", paths.root().display()))?;
        let cgroups = Cgroups::named(&instance.cgroup())?;
        cgroups.create()?;
        let node = Node::create(&cgroups, &paths.node(), &paths.log("node")).await?;
        let network = node.connect(&instance).await?;
        let group = format!("/{}", instance.cgroup());
        let machine = machine_settings(&paths, network, &group).await?;
        pki::write(&paths, network)?;
        config::write(&paths, &machine)?;
        for program in ["kubectl", "helm"] {
            std::os::unix::fs::symlink(programs.program(program), paths.bin().join(program))?;
        }
        let record = ClusterRecord {
            slot: network.slot(),
            fingerprint: fingerprint(&programs, &paths, &machine),
        };
        write_atomically(&paths.record(), serde_json::to_vec(&record)?)?;
        step.done();
        Ok(Self {
            instance,
            paths,
            cgroups,
            programs,
            network,
            node,
        })
    }

    async fn start_all(&self, progress: Progress) -> Result<()> {
        use Component::{
            ApiServer, Containerd, ControllerManager, Etcd, Kubelet, Prometheus, Proxy, Scheduler,
            Traefik,
        };
        let step = progress.step("Starting etcd, containerd, Prometheus and the API server");
        for component in [Etcd, Containerd, Prometheus, ApiServer] {
            self.launch(component).await?;
        }
        tokio::try_join!(
            self.wait_until_healthy(Etcd),
            self.wait_until_healthy(ApiServer),
            self.wait_until_healthy(Prometheus),
            self.prepare_containerd(),
        )?;
        step.done();
        let step =
            progress.step("Starting the controllers, the kubelet, kube-proxy and the gateway");
        let api = Api::connect(&self.kubeconfig()).await?;
        for component in [ControllerManager, Scheduler, Kubelet, Proxy] {
            self.launch(component).await?;
        }
        objects::apply(&api, self.network, &self.programs.folder("gateway-api")).await?;
        self.launch(Traefik).await?;
        tokio::try_join!(
            self.wait_until_healthy(ControllerManager),
            self.wait_until_healthy(Scheduler),
            self.wait_until_healthy(Kubelet),
            self.wait_until_healthy(Proxy),
            self.wait_until_healthy(Traefik),
            objects::wait_until_ready(&api),
        )?;
        step.done();
        Ok(())
    }

    async fn prepare_containerd(&self) -> Result<()> {
        self.wait_until_healthy(Component::Containerd).await?;
        if self.has_image(PAUSE_IMAGE).await? {
            return Ok(());
        }
        let pause = Image::local(PAUSE_IMAGE, self.programs.program("pause"));
        self.load_image(&pause).await
    }

    async fn remove(instance: &Instance, progress: Progress, what: &str) -> Result<()> {
        let paths = Paths::for_instance(instance);
        let cgroups = Cgroups::named(&instance.cgroup())?;
        if !cgroups.exists() && !paths.root().exists() {
            return Ok(());
        }
        let step = progress.step(what);
        cgroups.destroy().await?;
        node::remove_links(instance).await?;
        // The kernel removes the mounts of the node shortly after its last process.
        wait_until(
            "the removal of its files",
            Duration::from_secs(20),
            async || match std::fs::remove_dir_all(paths.root()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(
                    UnmetCondition::not_yet(format!("{}: {error}", paths.root().display())),
                ),
                _ => Ok(()),
            },
        )
        .await?;
        // The parent folder remains if it has other files.
        let _ = paths.root().parent().map(std::fs::remove_dir);
        step.done();
        Ok(())
    }

    /// Starts a component unless it runs. Resumes it if it is suspended.
    pub(crate) async fn launch(&self, component: Component) -> Result<()> {
        if self.cgroups.signal(component.name(), Signal::CONT) > 0 {
            return Ok(());
        }
        let command = component.command(&self.programs, &self.paths, self.network);
        let log = self.paths.log(component.name());
        self.node
            .start(&self.cgroups, component.name(), &command, &log)
            .await
    }

    /// Waits until a component is healthy.
    ///
    /// # Errors
    /// If it ends, or if it is not healthy after a minute. The error has the last lines of its log.
    pub(crate) async fn wait_until_healthy(&self, component: Component) -> Result<()> {
        let health = self.health(component)?;
        let well = wait_until(
            &format!("{component} to become healthy"),
            HEALTHY_TIMEOUT,
            async || {
                let answer = self.check_health(component, health.as_ref()).await;
                if answer.is_err() && self.cgroups.processes(component.name()).is_empty() {
                    return Err(UnmetCondition::Never(anyhow::anyhow!("it has ended")));
                }
                answer
            },
        )
        .await;
        well.with_context(|| {
            let log = self.paths.log(component.name());
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            format!(
                "{component} failed; the end of {}:\n{}",
                log.display(),
                last_lines(&text, 20)
            )
        })
    }

    pub(crate) fn health(&self, component: Component) -> Result<Option<Health>> {
        let authority = self.paths.config("ca.pem");
        component
            .health(self.network)
            .map(|(base, path)| Health::new(base, path, &authority))
            .transpose()
    }

    pub(crate) async fn check_health(
        &self,
        component: Component,
        health: Option<&Health>,
    ) -> Result<(), UnmetCondition> {
        match health {
            Some(health) => health.check().await,
            None => run(self.node.inside("ctr").arg("version"))
                .await
                .map(|_| ())
                .map_err(|error| UnmetCondition::not_yet(format!("{component}: {error:#}"))),
        }
    }

    /// Whether pods can use an image: it is imported, and the CRI plugin of containerd knows it.
    pub(crate) async fn has_image(&self, reference: &str) -> Result<bool> {
        let name = crate::image::full_name(reference);
        let filter = format!("name=={name},labels.\"io.cri-containerd.image\"==managed");
        let mut list = self.node.inside("ctr");
        list.args([
            "--namespace",
            "k8s.io",
            "images",
            "list",
            "--quiet",
            &filter,
        ]);
        Ok(run(&mut list).await?.lines().any(|line| line == name))
    }
}

/// Serializes `up` and `down` on one checkout.
async fn lock_cluster(instance: &Instance, progress: Progress) -> Result<File> {
    let path = Paths::for_instance(instance).lock();
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    let step = progress.step("Waiting for another command on this cluster");
    // In a separate thread: another task of this thread may hold the lock.
    let file = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??;
    step.done();
    Ok(file)
}

async fn machine_settings<'a>(
    paths: &Paths,
    network: Network,
    cgroup: &'a str,
) -> Result<MachineSettings<'a>> {
    Ok(MachineSettings {
        network,
        cgroup,
        plugins: prerequisites::plugin_folder()?,
        snapshotter: prerequisites::snapshotter(paths.root()).await?,
    })
}

/// A digest of everything that a running cluster was started with.
fn fingerprint(programs: &Programs, paths: &Paths, machine: &MachineSettings<'_>) -> String {
    let mut digest = Sha256::new();
    for (name, content) in config::render(paths, machine) {
        digest.update(format!("{name}\n{content}\n"));
    }
    for component in Component::ALL {
        for argument in component.command(programs, paths, machine.network) {
            digest.update(format!("{argument}\n"));
        }
    }
    hex(&digest.finalize()[..6])
}
