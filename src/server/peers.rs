//! Bounds the connections of one peer, so that one cannot take all that a listener has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

/// The bits of an IPv6 address that count: a network of this size is what one customer gets.
const IPV6_BITS: u32 = 64;

/// Whose connections are bounded, and how many each peer may have.
#[derive(Clone, Debug)]
pub struct PeerBound {
    /// The most connections of one peer: of an IPv4 address, or of an IPv6 network of 64 bits.
    pub most: usize,
    /// The trusted proxies. They have no bound, and neither has this machine.
    pub trusted: Vec<IpNet>,
}

/// The open connections of each peer that has a bound.
pub(super) struct Peers {
    bound: PeerBound,
    /// It has no more entries than there are open connections.
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// The address by which the connections of a peer are counted.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> IPV6_BITS << IPV6_BITS).into(),
    }
}

impl Peers {
    pub(super) fn new(bound: PeerBound) -> Self {
        Self { bound, open: Mutex::default() }
    }

    /// True if the peer is a trusted proxy.
    pub(super) fn is_trusted(&self, address: IpAddr) -> bool {
        self.bound.trusted.iter().any(|network| network.contains(&address.to_canonical()))
    }

    fn is_bounded(&self, address: IpAddr) -> bool {
        !address.to_canonical().is_loopback() && !self.is_trusted(address)
    }

    /// Counts a connection that a peer opens. False if the peer has too many.
    #[must_use]
    pub(super) fn opens(&self, address: IpAddr) -> bool {
        if !self.is_bounded(address) {
            return true;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(network(address)).or_default();
        let fits = *count < self.bound.most;
        *count += usize::from(fits);
        fits
    }

    /// Counts that a connection has ended which [`Self::opens`] counted.
    pub(super) fn ended(&self, address: IpAddr) {
        if !self.is_bounded(address) {
            return;
        }
        let (mut open, peer) = (self.open.lock().unwrap_or_else(PoisonError::into_inner), network(address));
        if let Some(count) = open.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers::new(PeerBound { most: 2, trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()] })
    }

    fn opens(peers: &Peers, address: &str) -> bool {
        peers.opens(address.parse().unwrap())
    }

    #[test]
    fn one_peer_has_a_bound_and_takes_nothing_from_another() {
        let peers = peers();
        assert!(opens(&peers, "203.0.113.1") && opens(&peers, "203.0.113.1"));
        assert!(!opens(&peers, "203.0.113.1") && !opens(&peers, "::ffff:203.0.113.1"));
        assert!(opens(&peers, "203.0.113.2"));
        peers.ended("203.0.113.1".parse().unwrap());
        assert!(opens(&peers, "203.0.113.1"), "a connection that has ended does not count");
        for address in ["203.0.113.1", "203.0.113.1", "203.0.113.2"] {
            peers.ended(address.parse().unwrap());
        }
        assert!(peers.open.lock().unwrap().is_empty(), "peers without connections are forgotten");
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let peers = peers();
        assert!(opens(&peers, "2001:db8::1") && opens(&peers, "2001:db8::2:1"));
        assert!(!opens(&peers, "2001:db8::3"));
        assert!(opens(&peers, "2001:db8:0:1::3"));
    }

    #[test]
    fn trusted_proxies_and_this_machine_have_no_bound() {
        let peers = peers();
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "127.0.0.1", "::1"] {
            assert!((0..10).all(|_| opens(&peers, address)), "{address}");
        }
        assert!(peers.open.lock().unwrap().is_empty());
    }
}
