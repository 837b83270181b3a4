//! The identity of a cluster: one per checkout, with an id and a slot of addresses.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Number of clusters that one machine has addresses for: a /22 of 198.18.0.0/15 each.
pub const SLOTS: u8 = 128;

/// The checkout of a cluster, and the names derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    checkout: PathBuf,
    id: String,
}

impl Instance {
    /// The instance of the checkout that contains `folder`: the nearest parent with
    /// `e2e/cluster/tools`.
    ///
    /// # Errors
    /// If no parent of `folder` is a checkout.
    pub fn containing(folder: &Path) -> Result<Self> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("no such folder: {}", folder.display()))?;
        for parent in folder.ancestors() {
            if parent.join("e2e/cluster/tools").is_dir() {
                return Ok(Self::for_checkout(parent));
            }
        }
        bail!("{} is not inside a Serin checkout", folder.display())
    }

    fn for_checkout(checkout: &Path) -> Self {
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

    /// Eight hex digits that depend on the path of the checkout only.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of the control group of all processes of this cluster.
    pub fn cgroup(&self) -> String {
        format!("serin-{}", self.id)
    }

    /// The alias of the host link, which identifies the cluster that it belongs to.
    pub fn link_alias(&self) -> String {
        format!("serin-{} {}", self.id, self.checkout.display())
    }

    /// All slots in the order in which to try them. The first one depends on the id.
    pub fn slots(&self) -> impl Iterator<Item = Network> {
        let digest = Sha256::digest(self.id.as_bytes());
        let first = digest[0] % SLOTS;
        (0..SLOTS).map(move |step| Network::new((first + step) % SLOTS))
    }
}

/// The addresses of one cluster, all from its slot's /22 of 198.18.0.0/15.
///
/// RFC 2544 reserves this block for benchmarks of network devices, so that it should not overlap
/// real networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    slot: u8,
}

impl Network {
    /// The network of a slot; slots are counted modulo [`SLOTS`].
    pub fn new(slot: u8) -> Self {
        Self { slot: slot % SLOTS }
    }

    /// The slot, below [`SLOTS`].
    pub fn slot(self) -> u8 {
        self.slot
    }

    /// The name of the link to the node on the host.
    pub fn link(self) -> String {
        format!("serin{}", self.slot)
    }

    /// The address of the host for the node and its pods.
    pub fn host(self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// The address of the node, on which all components listen.
    pub fn node(self) -> Ipv4Addr {
        self.address(0, 2)
    }

    /// The whole network of this cluster, which the host routes to the node.
    pub fn all(self) -> Cidr {
        Cidr::new(self.address(0, 0), 22)
    }

    /// The network of the pods.
    pub fn pods(self) -> Cidr {
        Cidr::new(self.address(1, 0), 24)
    }

    /// The network of the Services.
    pub fn services(self) -> Cidr {
        Cidr::new(self.address(2, 0), 24)
    }

    /// The address of the Service `kubernetes`: the first one of [`Network::services`].
    pub fn api_service(self) -> Ipv4Addr {
        self.address(2, 1)
    }

    /// The DNS server address of the pods. Nothing responds there, see `objects`.
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
    /// A network from an address and a prefix length in bits, at most 32.
    pub fn new(address: Ipv4Addr, prefix_bits: u8) -> Self {
        Self {
            address,
            prefix_bits: prefix_bits.min(32),
        }
    }

    /// Parses `10.0.0.0/8` or a single address. `None` if the text is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix_bits) = match text.split_once('/') {
            Some((address, bits)) => (address, bits.parse().ok().filter(|bits| *bits <= 32)?),
            None => (text, 32),
        };
        Some(Self::new(address.parse().ok()?, prefix_bits))
    }

    /// Whether the networks share an address.
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
        let first = Instance::for_checkout(Path::new("/a/serin"));
        assert_eq!(first, Instance::for_checkout(Path::new("/a/serin")));
        assert_ne!(
            first.id(),
            Instance::for_checkout(Path::new("/b/serin")).id()
        );
        assert_eq!(first.id().len(), 8);
    }

    #[test]
    fn a_nested_folder_finds_its_checkout() {
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
        let instance = Instance::for_checkout(Path::new("/a/serin"));
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
    fn the_parts_of_a_slot_are_inside_it_and_disjoint() {
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
    fn networks_overlap_when_one_contains_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.1.2.3")));
        assert!(cidr("0.0.0.0/0").overlaps(cidr("198.18.0.0/22")));
        assert!(!cidr("198.18.0.0/22").overlaps(cidr("198.18.4.0/22")));
        assert_eq!(Cidr::parse("default"), None);
        assert_eq!(Cidr::parse("10.0.0.0/33"), None);
    }
}
