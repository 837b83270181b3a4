//! Certificates, keys and tokens of one cluster. They are generated for each new cluster.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Result;
use rand::RngCore;
use rustix::fs::{Mode, chmod};
use serin_fake_cluster::certificates::{
    CertificateAndKey, CertificateAuthority, CertificateRequest, CertificateUsage, KeyPairPem,
};

use crate::instance::{Network, hex};
use crate::paths::Paths;

/// A user of the API server that authenticates with a token.
pub(crate) struct Account {
    /// The file name of its kubeconfig and token.
    pub(crate) name: &'static str,
    user: &'static str,
    group: &'static str,
}

/// The name of the only node.
pub(crate) const NODE_NAME: &str = "local";

/// The account of the administrator.
pub(crate) const ADMIN: &str = "admin";

/// The accounts of the administrator and of each component that calls the API server.
pub(crate) const ACCOUNTS: [Account; 7] = [
    Account::new(ADMIN, "admin", "system:masters"),
    Account::new(
        "kube-controller-manager",
        "system:kube-controller-manager",
        "",
    ),
    Account::new("kube-scheduler", "system:kube-scheduler", ""),
    Account::new("kubelet", "system:node:local", "system:nodes"),
    Account::new("kube-proxy", "system:kube-proxy", ""),
    Account::new("traefik", "traefik", ""),
    Account::new("prometheus", "prometheus", ""),
];

impl Account {
    const fn new(name: &'static str, user: &'static str, group: &'static str) -> Self {
        Self { name, user, group }
    }
}

/// Writes the certificate authority, the serving certificate of the node, the client certificate of
/// the API server, the service-account key, and a token for each of [`ACCOUNTS`].
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write(paths: &Paths, network: Network) -> Result<()> {
    let authority = CertificateAuthority::with_name("serin-cluster-authority")?;
    write_secret_file(&paths.config("ca.pem"), authority.pem())?;

    let dns_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        NODE_NAME,
    ];
    let addresses = [network.node(), network.api_service(), Ipv4Addr::LOCALHOST];
    let serving = CertificateRequest {
        common_name: "serin-cluster".to_owned(),
        organization: None,
        dns_names: dns_names.map(String::from).to_vec(),
        addresses: addresses.map(IpAddr::from).to_vec(),
        usage: Some(CertificateUsage::Server),
    };
    write_certificate(paths, "serving", &authority.issue(serving)?)?;
    let client = CertificateRequest {
        common_name: "kube-apiserver-kubelet-client".to_owned(),
        organization: Some("system:masters".to_owned()),
        usage: Some(CertificateUsage::Client),
        ..CertificateRequest::default()
    };
    write_certificate(paths, "kubelet-client", &authority.issue(client)?)?;

    let service_accounts = KeyPairPem::generate()?;
    write_secret_file(
        &paths.config("service-accounts.key"),
        service_accounts.private,
    )?;
    write_secret_file(
        &paths.config("service-accounts.pub"),
        service_accounts.public,
    )?;
    write_tokens(paths)
}

fn write_certificate(paths: &Paths, name: &str, issued: &CertificateAndKey) -> Result<()> {
    write_secret_file(&paths.config(&format!("{name}.pem")), &issued.certificate)?;
    write_secret_file(&paths.config(&format!("{name}.key")), &issued.key)
}

fn write_tokens(paths: &Paths) -> Result<()> {
    let mut table = String::new();
    for account in ACCOUNTS {
        let mut bytes = [0_u8; 16];
        rand::rng().fill_bytes(&mut bytes);
        let token = hex(&bytes);
        let Account { name, user, group } = account;
        let _ = writeln!(table, "{token},{user},{name},\"{group}\"");
        write_secret_file(&paths.config(&format!("{name}.token")), token)?;
    }
    write_secret_file(&paths.config("tokens.csv"), table)
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    Ok(())
}
