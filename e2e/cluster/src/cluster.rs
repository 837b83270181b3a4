//! A cluster as a whole: started, attached to, disturbed, ended.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::{Api, Health};
use crate::cgroup::Cgroups;
use crate::component::Component;
use crate::config::{self, Machine};
use crate::host::{Unmet, last_lines, run, until, write_atomically};
use crate::image::Image;
use crate::instance::{Instance, Network, hex};
use crate::node::{self, Node};
use crate::objects;
use crate::paths::Paths;
use crate::pki;
use crate::prerequisites;
use crate::progress::Progress;
use crate::tools::{PAUSE_IMAGE, Programs, Tools};

/// How long a component may take to become healthy.
pub(crate) const HEALTHY: Duration = Duration::from_secs(60);

/// What is remembered of a cluster between commands.
#[derive(Serialize, Deserialize)]
struct Record {
    slot: u8,
    /// Stands for the programs and settings that it was started with.
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
    /// Starts the cluster, or what of it does not run; building its programs first where they
    /// are not in the cache. Whatever a killed run left is put right. Safe to repeat.
    ///
    /// # Errors
    /// When something is missing on the machine or a component does not become healthy; says
    /// what, with the last words of the component.
    pub async fn up(instance: Instance, progress: Progress) -> Result<Self> {
        prerequisites::require_root("up")?;
        let tools = Tools::of(instance.checkout())?;
        prerequisites::require_outside_node(instance.checkout(), "the checkout")?;
        prerequisites::require_outside_node(tools.cache(), "the cache, SERIN_CACHE_DIR")?;
        prerequisites::ensure(progress).await?;
        let programs = tools.prepare(progress).await?;
        let _lock = lock(&instance, progress).await?;
        let cluster = match Self::resume(&instance, &programs).await {
            Some(cluster) => cluster,
            None => {
                // Left by a killed run or a restart, or started with other programs or settings.
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

    /// The cluster of this checkout, which runs already; it is not changed.
    ///
    /// # Errors
    /// When it does not run.
    pub fn attach(instance: &Instance) -> Result<Self> {
        let found = Self::find(instance)?;
        let (cluster, _) =
            found.context("no cluster runs here: start it by `cargo xtask cluster up`")?;
        Ok(cluster)
    }

    /// Ends the cluster and removes all of it: processes, pods, mounts, links, rules, files.
    /// Does so too with what is left of one; safe to repeat.
    ///
    /// # Errors
    /// When something resists, with what it is.
    pub async fn down(instance: &Instance, progress: Progress) -> Result<()> {
        prerequisites::require_root("down")?;
        let _lock = lock(instance, progress).await?;
        Self::remove(instance, progress, "Removing the cluster").await
    }

    /// What runs of this checkout's cluster, and the record of how it was started.
    fn find(instance: &Instance) -> Result<Option<(Self, Record)>> {
        let paths = Paths::of(instance);
        let cgroups = Cgroups::named(&instance.cgroup())?;
        let Some(node) = Node::find(&cgroups) else {
            return Ok(None);
        };
        let Ok(text) = std::fs::read_to_string(paths.record()) else {
            return Ok(None);
        };
        let record: Record = serde_json::from_str(&text)?;
        let network = Network::new(record.slot);
        if !node::is_linked(instance, network) {
            return Ok(None);
        }
        let cluster = Self {
            instance: instance.clone(),
            programs: Tools::of(instance.checkout())?.programs()?,
            paths,
            cgroups,
            network,
            node,
        };
        Ok(Some((cluster, record)))
    }

    /// The cluster that runs, if it was started with these programs and settings.
    async fn resume(instance: &Instance, programs: &Programs) -> Option<Self> {
        let (cluster, record) = Self::find(instance).ok().flatten()?;
        let group = format!("/{}", instance.cgroup());
        let machine = machine(&cluster.paths, cluster.network, &group)
            .await
            .ok()?;
        let now = fingerprint(programs, &cluster.paths, &machine);
        (record.fingerprint == now).then_some(cluster)
    }

    /// Makes everything that the components need, and starts none yet.
    async fn create(instance: Instance, programs: Programs, progress: Progress) -> Result<Self> {
        let step = progress.step("Preparing the node");
        let paths = Paths::of(&instance);
        paths
            .create()
            .with_context(|| format!("cannot create {}", paths.root().display()))?;
        let cgroups = Cgroups::named(&instance.cgroup())?;
        cgroups.create()?;
        let node = Node::create(&cgroups, &paths.node(), &paths.log("node")).await?;
        let network = node.connect(&instance).await?;
        let group = format!("/{}", instance.cgroup());
        let machine = machine(&paths, network, &group).await?;
        pki::write(&paths, network)?;
        config::write(&paths, &machine)?;
        for program in ["kubectl", "helm"] {
            std::os::unix::fs::symlink(programs.program(program), paths.bin().join(program))?;
        }
        let record = Record {
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
            self.healthy(Etcd),
            self.healthy(ApiServer),
            self.healthy(Prometheus),
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
            self.healthy(ControllerManager),
            self.healthy(Scheduler),
            self.healthy(Kubelet),
            self.healthy(Proxy),
            self.healthy(Traefik),
            objects::settle(&api),
        )?;
        step.done();
        Ok(())
    }

    async fn prepare_containerd(&self) -> Result<()> {
        self.healthy(Component::Containerd).await?;
        if self.has_image(PAUSE_IMAGE).await? {
            return Ok(());
        }
        let pause = Image {
            reference: PAUSE_IMAGE.to_owned(),
            binary: self.programs.program("pause"),
        };
        self.load_image(&pause).await
    }

    async fn remove(instance: &Instance, progress: Progress, what: &str) -> Result<()> {
        let paths = Paths::of(instance);
        let cgroups = Cgroups::named(&instance.cgroup())?;
        if !cgroups.exist() && !paths.root().exists() {
            return Ok(());
        }
        let step = progress.step(what);
        cgroups.destroy().await?;
        node::remove_links(instance).await?;
        // The kernel takes the node's mounts away a moment after its last process.
        until(
            "the removal of its files",
            Duration::from_secs(20),
            async || match std::fs::remove_dir_all(paths.root()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Unmet::yet(format!("{}: {error}", paths.root().display())))
                }
                _ => Ok(()),
            },
        )
        .await?;
        // It stays if somebody keeps something else there.
        let _ = paths.root().parent().map(std::fs::remove_dir);
        step.done();
        Ok(())
    }

    /// Starts a component unless it runs; one that was suspended goes on.
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

    /// Waits until a component is well.
    ///
    /// # Errors
    /// When it ends or does not become well within a minute, with its last words.
    pub(crate) async fn healthy(&self, component: Component) -> Result<()> {
        let health = self.health(component)?;
        let well = until(
            &format!("{component} to become healthy"),
            HEALTHY,
            async || {
                let answer = self.ask(component, health.as_ref()).await;
                if answer.is_err() && self.cgroups.processes(component.name()).is_empty() {
                    return Err(Unmet::Never(anyhow::anyhow!("it has ended")));
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

    pub(crate) async fn ask(
        &self,
        component: Component,
        health: Option<&Health>,
    ) -> Result<(), Unmet> {
        match health {
            Some(health) => health.ask().await,
            None => run(self.node.inside("ctr").arg("version"))
                .await
                .map(|_| ())
                .map_err(|error| Unmet::yet(format!("{component}: {error:#}"))),
        }
    }

    /// Whether pods may name an image: imported, and known to the part that the kubelet asks.
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

/// Held by `up` and `down`, so that two of them on one checkout take turns.
async fn lock(instance: &Instance, progress: Progress) -> Result<File> {
    let path = Paths::of(instance).lock();
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    let step = progress.step("Waiting for another command on this cluster");
    // In a thread of its own: who holds it may be another task of this one.
    let file = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??;
    step.done();
    Ok(file)
}

async fn machine<'a>(paths: &Paths, network: Network, cgroup: &'a str) -> Result<Machine<'a>> {
    Ok(Machine {
        network,
        cgroup,
        plugins: prerequisites::plugin_folder()?,
        snapshotter: prerequisites::snapshotter(paths.root()).await?,
    })
}

/// Stands for everything that a running cluster was started with.
fn fingerprint(programs: &Programs, paths: &Paths, machine: &Machine<'_>) -> String {
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
