//! Which node of another region a node talks to: rendezvous hashing (Thaler and Ravishankar 1998). Each sender has an
//! order of its own over the receivers, so that the senders spread evenly, and those of a receiver that dies spread
//! over the others.

use crate::hash::{fnv1a, mix};

/// The receivers in the order in which `sender` prefers them.
pub fn ranked<'n>(sender: &str, receivers: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut ranked: Vec<(u64, &str)> = receivers.map(|receiver| (weight(sender, receiver), receiver)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, receiver)| receiver).collect()
}

/// The mixed hash of both names. All nodes compute the same.
fn weight(sender: &str, receiver: &str) -> u64 {
    mix(fnv1a(sender.bytes().chain([0]).chain(receiver.bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_spread_evenly_and_only_those_of_a_lost_receiver_move() {
        let receivers = ["10.0.0.1:8082", "10.0.0.2:8082", "10.0.0.3:8082"];
        let senders: Vec<String> = (0..3000).map(|n| format!("node-{n}")).collect();
        let mut counts = [0; 3];
        for sender in &senders {
            let all = ranked(sender, receivers.into_iter());
            counts[receivers.iter().position(|r| *r == all[0]).unwrap()] += 1;
            let without = ranked(sender, receivers.into_iter().filter(|r| *r != all[0]));
            assert_eq!(without, all[1..]);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
