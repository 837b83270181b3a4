//! The registry of the CNCF project distribution, as a process of this host. It is built only by the
//! case that needs it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, SigningKey};
use reqwest::{Client, Response, Url};
use serde_json::json;
use serin_cluster::{GoModule, ImageContent, Progress, build_programs, sha256_hex};
use tokio::process::{Child, Command};

use crate::env::Env;
use crate::shop::eventually;

const MODULE: GoModule = GoModule {
    name: "registry",
    version: "distribution 3.1.2",
    linker: "",
    programs: &[(
        "registry",
        "github.com/distribution/distribution/v3/cmd/registry",
    )],
};
/// Maximum time for the registry to answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A registry. It is killed on drop.
pub struct Registry {
    program: PathBuf,
    folder: PathBuf,
    /// Host and port, the first part of the names of its images.
    pub address: String,
    child: Option<Child>,
    http: Client,
}

impl Registry {
    /// Builds the program if necessary, and starts it without images.
    ///
    /// # Errors
    /// If it does not build or start.
    pub async fn start(env: &Env) -> Result<Self> {
        let sources = env.checkout.join("e2e/tests/tools");
        let programs = build_programs(&sources, &[MODULE], Progress::detect()).await?;
        let program = programs.get("registry").context("registry is not pinned")?;
        let folder = env.checkout.join(".local/e2e/registry");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        drop(listener);
        let config = json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": folder.join("images")}},
            "http": {"addr": address},
        });
        // JSON is YAML.
        std::fs::write(folder.join("config.yaml"), config.to_string())?;
        let mut registry = Self {
            program: program.clone(),
            folder,
            address,
            child: None,
            http: Client::new(),
        };
        registry.resume().await?;
        Ok(registry)
    }

    /// Starts the program again, with the images that it had.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn resume(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let child = Command::new(&self.program)
            .arg("serve")
            .arg(self.folder.join("config.yaml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.child = Some(child);
        let url = format!("http://{}/v2/", self.address);
        eventually("the registry answers", START_TIMEOUT, async || {
            let answer = self.http.get(&url).send().await;
            Ok(answer.is_ok_and(|answer| answer.status().is_success()))
        })
        .await
    }

    /// Ends the program, as in an outage.
    ///
    /// # Errors
    /// If it has already ended.
    pub async fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the registry does not run")?;
        child.kill().await?;
        Ok(())
    }

    /// Pushes an image under a tag. Returns its digest.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub async fn push(&self, path: &str, tag: &str, image: &ImageContent) -> Result<String> {
        for (digest, content) in &image.blobs {
            self.push_blob(path, digest, content.clone()).await?;
        }
        let manifest = image.blobs.get(&image.digest);
        let manifest = manifest.context("the image has no manifest")?;
        self.push_manifest(path, tag, &image.media_type, manifest.clone())
            .await?;
        Ok(image.digest.clone())
    }

    /// Signs an image as `cosign sign --key` does, next to the image.
    ///
    /// # Errors
    /// If the registry refuses the signature.
    pub async fn sign(&self, path: &str, digest: &str, key: &KeyPair) -> Result<()> {
        let critical = json!({
            "identity": {"docker-reference": format!("{}/{path}", self.address)},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        });
        let payload = json!({"critical": critical, "optional": null}).to_string();
        let signature = STANDARD.encode(key.sign(payload.as_bytes())?);
        let (config, payload) = (b"{}".to_vec(), payload.into_bytes());
        let descriptor = |media_type: &str, content: &[u8]| {
            json!({
                "mediaType": media_type, "size": content.len(),
                "digest": format!("sha256:{}", sha256_hex(content)),
            })
        };
        let mut layer = descriptor(SIMPLE_SIGNING, &payload);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [layer],
        });
        for content in [config, payload] {
            let digest = format!("sha256:{}", sha256_hex(&content));
            self.push_blob(path, &digest, content).await?;
        }
        let tag = format!("{}.sig", digest.replace(':', "-"));
        self.push_manifest(path, &tag, MANIFEST, manifest.to_string().into_bytes())
            .await
    }

    async fn push_blob(&self, path: &str, digest: &str, content: Vec<u8>) -> Result<()> {
        let base = Url::parse(&format!("http://{}/v2/{path}/blobs/uploads/", self.address))?;
        let answer = self.http.post(base.clone()).send().await?;
        let answer = checked(answer).await?;
        let location = answer.headers().get("location");
        let location = location.context("the upload has no location")?.to_str()?;
        let mut upload = base.join(location)?;
        upload.query_pairs_mut().append_pair("digest", digest);
        checked(self.http.put(upload).body(content).send().await?).await?;
        Ok(())
    }

    async fn push_manifest(
        &self,
        path: &str,
        tag: &str,
        media_type: &str,
        content: Vec<u8>,
    ) -> Result<()> {
        let url = format!("http://{}/v2/{path}/manifests/{tag}", self.address);
        let request = self.http.put(url).header("content-type", media_type);
        checked(request.body(content).send().await?).await?;
        Ok(())
    }
}

async fn checked(answer: Response) -> Result<Response> {
    let (status, url) = (answer.status(), answer.url().clone());
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default();
    bail!("the registry answered {status} to {url}: {text}")
}
