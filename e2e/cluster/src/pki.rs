//! Certificates, keys and tokens of one cluster. They are generated for each new cluster.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustix::fs::{Mode, chmod};

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
    let authority_key = KeyPair::generate()?;
    let authority = authority()?;
    let certificate = authority.self_signed(&authority_key)?;
    write_secret_file(&paths.config("ca.pem"), certificate.pem())?;
    let issuer = Issuer::new(authority, authority_key);

    let mut serving = CertificateParams::new(
        [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            NODE_NAME,
        ]
        .map(String::from),
    )?;
    for address in [
        network.node(),
        network.api_service(),
        std::net::Ipv4Addr::LOCALHOST,
    ] {
        serving
            .subject_alt_names
            .push(SanType::IpAddress(address.into()));
    }
    serving
        .distinguished_name
        .push(DnType::CommonName, "serin-cluster");
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(paths, "serving", &serving, &issuer)?;

    let mut client = CertificateParams::new(Vec::new())?;
    client
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver-kubelet-client");
    client
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(paths, "kubelet-client", &client, &issuer)?;

    let service_accounts = KeyPair::generate()?;
    write_secret_file(
        &paths.config("service-accounts.key"),
        service_accounts.serialize_pem(),
    )?;
    write_secret_file(
        &paths.config("service-accounts.pub"),
        service_accounts.public_key_pem(),
    )?;
    write_tokens(paths)
}

fn authority() -> Result<CertificateParams> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    authority
        .distinguished_name
        .push(DnType::CommonName, "serin-cluster-authority");
    Ok(authority)
}

fn sign(
    paths: &Paths,
    name: &str,
    params: &CertificateParams,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    write_secret_file(&paths.config(&format!("{name}.pem")), certificate.pem())?;
    write_secret_file(&paths.config(&format!("{name}.key")), key.serialize_pem())
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
