//! Which cluster this is: one per checkout, told apart by an id and by a slot of addresses.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// How many clusters one machine has addresses for: a /22 each out of 198.18.0.0/15.
pub const SLOTS: u8 = 128;

/// The checkout a cluster belongs to, and the names derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    checkout: PathBuf,
    id: String,
}

impl Instance {
    /// The instance of the checkout that holds `folder`: the nearest parent with
    /// `e2e/cluster/tools`.
    ///
    /// # Errors
    /// When no parent of `folder` is a checkout.
    pub fn containing(folder: &Path) -> Result<Self> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("no such folder: {}", folder.display()))?;
        for parent in folder.ancestors() {
            if parent.join("e2e/cluster/tools").is_dir() {
                return Ok(Self::of_checkout(parent));
            }
        }
        bail!("{} is not inside a Serin checkout", folder.display())
    }

    fn of_checkout(checkout: &Path) -> Self {
        let digest = Sha256::digest(checkout.as_os_str().as_encoded_bytes());
        Self {
            checkout: checkout.to_owned(),
            id: hex(&digest[..4]),
        }
    }

    /// The root folder of the checkout.
    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    /// Eight hex digits, the same for the same checkout path.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of the control group that every process of this cluster lives under.
    pub fn cgroup(&self) -> String {
        format!("serin-{}", self.id)
    }

    /// The alias on this cluster's host link, by which it is found again and told from others'.
    pub fn link_alias(&self) -> String {
        format!("serin-{} {}", self.id, self.checkout.display())
    }

    /// The slots in the order in which to try them: from one given by the id, then round.
    pub fn slots(&self) -> impl Iterator<Item = Network> {
        let digest = Sha256::digest(self.id.as_bytes());
        let first = digest[0] % SLOTS;
        (0..SLOTS).map(move |step| Network::new((first + step) % SLOTS))
    }
}

/// The addresses of one cluster, all from its slot's /22 of 198.18.0.0/15.
///
/// RFC 2544 sets that block aside for tests of devices, so that no real network that the
/// machine talks to should have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    slot: u8,
}

impl Network {
    /// The network of a slot; slots are counted modulo [`SLOTS`].
    pub fn new(slot: u8) -> Self {
        Self { slot: slot % SLOTS }
    }

    /// Which slot this is, below [`SLOTS`].
    pub fn slot(self) -> u8 {
        self.slot
    }

    /// The host's end of the link to the node.
    pub fn link(self) -> String {
        format!("serin{}", self.slot)
    }

    /// The host as the node and its pods see it.
    pub fn host(self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// The node: API server, gateway, Prometheus and every other component listen here.
    pub fn node(self) -> Ipv4Addr {
        self.address(0, 2)
    }

    /// Everything of this cluster, as the host routes it to the node.
    pub fn all(self) -> Cidr {
        Cidr::new(self.address(0, 0), 22)
    }

    /// Pod addresses.
    pub fn pods(self) -> Cidr {
        Cidr::new(self.address(1, 0), 24)
    }

    /// Service addresses.
    pub fn services(self) -> Cidr {
        Cidr::new(self.address(2, 0), 24)
    }

    /// The `kubernetes` Service: the first of [`Network::services`].
    pub fn api_service(self) -> Ipv4Addr {
        self.address(2, 1)
    }

    /// Where pods look for a name server; nobody answers, see `objects`.
    pub(crate) fn name_server(self) -> Ipv4Addr {
        self.address(2, 10)
    }

    fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (u32::from(self.slot) << 10);
        Ipv4Addr::from(base + (u32::from(third) << 8) + u32::from(fourth))
    }
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix_bits: u8,
}

impl Cidr {
    /// A network of an address and a prefix length in bits (up to 32).
    pub fn new(address: Ipv4Addr, prefix_bits: u8) -> Self {
        Self {
            address,
            prefix_bits: prefix_bits.min(32),
        }
    }

    /// Reads `10.0.0.0/8` or a bare address; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix_bits) = match text.split_once('/') {
            Some((address, bits)) => (address, bits.parse().ok().filter(|bits| *bits <= 32)?),
            None => (text, 32),
        };
        Some(Self::new(address.parse().ok()?, prefix_bits))
    }

    /// Whether the two networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let bits = self.prefix_bits.min(other.prefix_bits);
        let shift = 32 - u32::from(bits);
        let prefix = |address: Ipv4Addr| u64::from(u32::from(address)) >> shift;
        prefix(self.address) == prefix(other.address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// Lower-case hex digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    #[test]
    fn the_id_depends_on_the_path_alone() {
        let first = Instance::of_checkout(Path::new("/a/serin"));
        assert_eq!(first, Instance::of_checkout(Path::new("/a/serin")));
        assert_ne!(
            first.id(),
            Instance::of_checkout(Path::new("/b/serin")).id()
        );
        assert_eq!(first.id().len(), 8);
    }

    #[test]
    fn a_folder_deep_inside_finds_its_checkout() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("controller/core/src");
        std::fs::create_dir_all(&deep).unwrap();
        assert!(Instance::containing(&deep).is_err());
        std::fs::create_dir_all(root.path().join("e2e/cluster/tools")).unwrap();
        let instance = Instance::containing(&deep).unwrap();
        assert_eq!(instance.checkout(), root.path().canonicalize().unwrap());
    }

    #[test]
    fn every_slot_is_tried_once_and_they_do_not_overlap() {
        let instance = Instance::of_checkout(Path::new("/a/serin"));
        let networks: Vec<Network> = instance.slots().collect();
        assert_eq!(networks.len(), usize::from(SLOTS));
        for (index, one) in networks.iter().enumerate() {
            assert!(one.all().overlaps(cidr("198.18.0.0/15")));
            for other in &networks[index + 1..] {
                assert!(!one.all().overlaps(other.all()), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_parts_of_a_slot_lie_inside_it_and_apart() {
        let network = Network::new(127);
        assert_eq!(network.node().to_string(), "198.19.252.2");
        assert_eq!(network.services().to_string(), "198.19.254.0/24");
        let parts = [
            Cidr::new(network.host(), 30),
            network.pods(),
            network.services(),
        ];
        for (index, part) in parts.iter().enumerate() {
            assert!(part.overlaps(network.all()));
            assert!(
                parts[index + 1..]
                    .iter()
                    .all(|other| !part.overlaps(*other))
            );
        }
        assert!(
            network
                .services()
                .overlaps(Cidr::new(network.api_service(), 32))
        );
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.1.2.3")));
        assert!(cidr("0.0.0.0/0").overlaps(cidr("198.18.0.0/22")));
        assert!(!cidr("198.18.0.0/22").overlaps(cidr("198.18.4.0/22")));
        assert_eq!(Cidr::parse("default"), None);
        assert_eq!(Cidr::parse("10.0.0.0/33"), None);
    }
}
