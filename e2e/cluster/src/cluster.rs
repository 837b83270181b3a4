//! A cluster as a whole: started, attached to, disturbed, ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
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
const HEALTHY: Duration = Duration::from_secs(60);

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
    instance: Instance,
    paths: Paths,
    cgroups: Cgroups,
    programs: Programs,
    network: Network,
    node: Node,
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
        let _lock = lock(&instance, progress)?;
        let cluster = match Self::resume(&instance, &programs).await {
            Some(cluster) => cluster,
            None => {
                Self::remove(&instance, progress).await?;
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
    pub fn attach(instance: Instance) -> Result<Self> {
        let found = Self::find(&instance)?;
        let (cluster, _) = found.context("no cluster runs here: start it by `cargo xtask cluster up`")?;
        Ok(cluster)
    }

    /// Ends the cluster and removes all of it: processes, pods, mounts, links, rules, files.
    /// Does so too with what is left of one; safe to repeat.
    ///
    /// # Errors
    /// When something resists, with what it is.
    pub async fn down(instance: &Instance, progress: Progress) -> Result<()> {
        prerequisites::require_root("down")?;
        let _lock = lock(instance, progress)?;
        Self::remove(instance, progress).await
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
        let machine = machine(&cluster.paths, cluster.network, &group).await.ok()?;
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
            ApiServer, Containerd, ControllerManager, Etcd, Kubelet, Prometheus, Proxy, Scheduler, Traefik,
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
        let step = progress.step("Starting the controllers, the kubelet, kube-proxy and the gateway");
        let api = Api::connect(&self.kubeconfig()).await?;
        for component in [ControllerManager, Scheduler, Kubelet, Proxy] {
            self.launch(component).await?;
        }
        objects::apply(&api, &self.programs.folder("gateway-api")).await?;
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

    async fn remove(instance: &Instance, progress: Progress) -> Result<()> {
        let paths = Paths::of(instance);
        let cgroups = Cgroups::named(&instance.cgroup())?;
        if !cgroups.exist() && !paths.root().exists() {
            return Ok(());
        }
        let step = progress.step("Removing the cluster");
        cgroups.destroy().await?;
        node::remove_links(instance).await?;
        // The kernel takes the node's mounts away a moment after its last process.
        until("the removal of its files", Duration::from_secs(20), async || {
            match std::fs::remove_dir_all(paths.root()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Unmet::yet(format!("{}: {error}", paths.root().display())))
                }
                _ => Ok(()),
            }
        })
        .await?;
        // It stays if somebody keeps something else there.
        let _ = paths.root().parent().map(std::fs::remove_dir);
        step.done();
        Ok(())
    }

    /// Starts a component unless it runs; one that was suspended goes on.
    async fn launch(&self, component: Component) -> Result<()> {
        if self.cgroups.signal(component.name(), Signal::CONT) > 0 {
            return Ok(());
        }
        let command = component.command(&self.programs, &self.paths, self.network);
        let log = self.paths.log(component.name());
        self.node.start(&self.cgroups, component.name(), &command, &log).await
    }

    /// Waits until a component is well.
    ///
    /// # Errors
    /// When it ends or does not become well within a minute, with its last words.
    async fn healthy(&self, component: Component) -> Result<()> {
        let health = self.health(component)?;
        let well = until(&format!("{component} to become healthy"), HEALTHY, async || {
            let answer = self.ask(component, health.as_ref()).await;
            if answer.is_err() && self.cgroups.processes(component.name()).is_empty() {
                return Err(Unmet::Never(anyhow::anyhow!("it has ended")));
            }
            answer
        })
        .await;
        well.with_context(|| {
            let log = self.paths.log(component.name());
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            format!("{component} failed; the end of {}:\n{}", log.display(), last_lines(&text, 20))
        })
    }

    fn health(&self, component: Component) -> Result<Option<Health>> {
        let authority = self.paths.config("ca.pem");
        component
            .health(self.network)
            .map(|(base, path)| Health::new(base, path, &authority))
            .transpose()
    }

    async fn ask(&self, component: Component, health: Option<&Health>) -> Result<(), Unmet> {
        match health {
            Some(health) => health.ask().await,
            None => run(self.node.inside("ctr").arg("version"))
                .await
                .map(|_| ())
                .map_err(|error| Unmet::yet(format!("{component}: {error:#}"))),
        }
    }

    /// Makes an image known to the node, so that pods can name it. Their `imagePullPolicy` must
    /// be `IfNotPresent` or `Never`: there is no registry.
    ///
    /// # Errors
    /// When the binary cannot be read or containerd refuses the image.
    pub async fn load_image(&self, image: &Image) -> Result<()> {
        let archive = tempfile_name(&self.paths.images(), &image.reference);
        image.write(&archive)?;
        let mut import = self.node.inside("ctr");
        import.args(["--namespace", "k8s.io", "images", "import"]).arg(&archive);
        let imported = run(&mut import).await;
        std::fs::remove_file(&archive)?;
        imported?;
        until(&format!("the image {}", image.reference), HEALTHY, async || {
            match self.has_image(&image.reference).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Unmet::yet("containerd has not told the kubelet's side of it")),
                Err(error) => Err(Unmet::Never(error)),
            }
        })
        .await
    }

    /// Whether pods may name an image: imported, and known to the part that the kubelet asks.
    async fn has_image(&self, reference: &str) -> Result<bool> {
        let name = crate::image::full_name(reference);
        let filter = format!("name=={name},labels.\"io.cri-containerd.image\"==managed");
        let mut list = self.node.inside("ctr");
        list.args(["--namespace", "k8s.io", "images", "list", "--quiet", &filter]);
        Ok(run(&mut list).await?.lines().any(|line| line == name))
    }

    /// The checkout it belongs to, and its id.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Its addresses.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig()
    }

    /// The log of a component.
    pub fn log(&self, component: Component) -> PathBuf {
        self.paths.log(component.name())
    }

    /// Every write to the API server, one JSON object a line: `verb`, `user.username`,
    /// `objectRef`, `responseStatus.code`, `requestReceivedTimestamp` and more (the API
    /// server's audit log at level Metadata).
    pub fn audit_log(&self) -> PathBuf {
        self.paths.log("audit")
    }

    /// Where Prometheus answers, for the host and for pods alike.
    pub fn prometheus_url(&self) -> String {
        Component::Prometheus.address(self.network).unwrap_or_default()
    }

    /// Where the gateway answers, for the host and for pods alike.
    pub fn gateway_url(&self) -> String {
        Component::Traefik.address(self.network).unwrap_or_default()
    }

    /// What a shell needs to work with the cluster.
    pub fn env(&self) -> Vec<(String, String)> {
        let checkout = self.instance.checkout();
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| checkout.join("target"), |folder| checkout.join(folder));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.paths.bin(), target.join("debug")];
        let more = std::env::split_paths(&path).filter(|folder| !folders.contains(folder));
        let path = std::env::join_paths(folders.iter().cloned().chain(more)).unwrap_or(path.clone());
        let mut env = vec![
            ("KUBECONFIG".into(), config::text(&self.kubeconfig())),
            ("PROMETHEUS_URL".into(), self.prometheus_url()),
            ("PROMETHEUS_CLUSTER_URL".into(), self.prometheus_url()),
            ("GATEWAY_URL".into(), self.gateway_url()),
            ("PATH".into(), path.to_string_lossy().into_owned()),
        ];
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"];
        if proxies.iter().any(|name| std::env::var_os(name).is_some()) {
            env.push(("NO_PROXY".into(), self.without_proxy()));
        }
        env
    }

    fn without_proxy(&self) -> String {
        let ours = self.network.all().to_string();
        match std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")) {
            Ok(theirs) if theirs.split(',').any(|part| part == ours) => theirs,
            Ok(theirs) if !theirs.is_empty() => format!("{theirs},{ours}"),
            _ => ours,
        }
    }

    /// Stops a component where it is (SIGSTOP), as a hung one: connections are accepted by the
    /// kernel and never answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn suspend(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::STOP)
    }

    /// Lets a suspended component go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume_component(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::CONT)
    }

    /// Ends a component at once (SIGKILL), and waits until it is gone. Pods go on without
    /// their kubelet; containerd's end takes them along.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&self, component: Component) -> Result<()> {
        self.cgroups.kill_component(component.name()).await
    }

    /// Starts a component that does not run, and waits until it is well.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub async fn start(&self, component: Component) -> Result<()> {
        self.launch(component).await?;
        self.healthy(component).await
    }

    fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        if self.cgroups.signal(component.name(), signal) == 0 {
            bail!("{component} does not run");
        }
        Ok(())
    }

    /// How each component is, now.
    ///
    /// # Errors
    /// When the cluster's files cannot be read.
    pub async fn status(&self) -> Result<Vec<Status>> {
        let mut all = Vec::new();
        for component in Component::ALL {
            let process = self.cgroups.processes(component.name()).first().copied();
            let state = match process {
                None => State::Ended,
                Some(process) if crate::cgroup::is_suspended(process) => State::Suspended,
                Some(_) => match self.ask(component, self.health(component)?.as_ref()).await {
                    Ok(()) => State::Healthy,
                    Err(_) => State::Unhealthy,
                },
            };
            all.push(Status {
                component,
                process_id: process.map(|process| process.as_raw_nonzero().get()),
                state,
                address: component.address(self.network),
                log: self.log(component),
            });
        }
        Ok(all)
    }
}

/// How a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which it is.
    pub component: Component,
    /// Its process, when it runs.
    pub process_id: Option<i32>,
    /// What it is at.
    pub state: State,
    /// Where it listens, if it is to be reached from outside the node.
    pub address: Option<String>,
    /// What it has said.
    pub log: PathBuf,
}

/// What a component is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs and says that it is well.
    Healthy,
    /// It runs and does not say so.
    Unhealthy,
    /// It was stopped by a signal and may go on.
    Suspended,
    /// It does not run.
    Ended,
}

/// Held by `up` and `down`, so that two of them on one checkout take turns.
fn lock(instance: &Instance, progress: Progress) -> Result<File> {
    let path = Paths::of(instance).lock();
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        let step = progress.step("Waiting for another command on this cluster");
        file.lock()?;
        step.done();
    }
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

/// A name for an archive that no other load at the same time has.
fn tempfile_name(folder: &Path, reference: &str) -> PathBuf {
    let plain = reference.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    folder.join(format!("{plain}-{}-{:08x}.tar", std::process::id(), rand::random::<u32>()))
}
