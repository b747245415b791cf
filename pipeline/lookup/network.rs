//! IP networks: the longest that holds an address.

use std::net::IpAddr;

use hashbrown::HashMap;

/// Bits of an address; those of IPv4 lie in `::ffff:0:0/96`.
const BITS: u8 = 128;
const IPV4_BITS: u8 = 96;

/// A network or a host: `10.0.0.0/8`, `2001:db8::/32`, `10.1.2.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Network {
    address: u128,
    length: u8,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.trim().split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (least, most) = if address.is_ipv4() { (IPV4_BITS, BITS) } else { (0, BITS) };
        let length = match length {
            Some(length) => length.checked_add(least).filter(|l| *l <= most)?,
            None => BITS,
        };
        Some(Self { address: bits(address) & mask(length), length })
    }
}

/// Networks within groups, each with the number of a cell.
#[derive(Debug, Default)]
pub(super) struct Networks {
    cells: HashMap<(u32, Network), u32>,
    /// Lengths that there are, longest first.
    lengths: Vec<u8>,
}

impl Networks {
    /// The cell of a network, a new one if there is none.
    pub(super) fn add(&mut self, group: u32, network: Network) -> u32 {
        let next = self.cells.len() as u32;
        if let Err(at) = self.lengths.binary_search_by(|l| network.length.cmp(l)) {
            self.lengths.insert(at, network.length);
        }
        *self.cells.entry((group, network)).or_insert(next)
    }

    /// How many cells there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// The cells of the networks that hold `address`, longest first.
    pub(super) fn of(&self, group: u32, address: IpAddr) -> impl Iterator<Item = u32> + '_ {
        let address = bits(address);
        self.lengths.iter().filter_map(move |&length| {
            let network = Network { address: address & mask(length), length };
            self.cells.get(&(group, network)).copied()
        })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(BITS - length)).unwrap_or(0)
}
