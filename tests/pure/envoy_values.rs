//! Whatever a client of Envoy chooses, Envoy's call gets a decision. The entry point of the fuzz target asserts it.

use proptest::prelude::*;
use prost::Message as _;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use proto::envoy::service::ratelimit::v3::RateLimitRequest;

use crate::entries::envoy_request;

fn entry() -> impl Strategy<Value = Entry> {
    let key = prop::sample::select(vec!["user", "tier", "path", "ip", "remote_address"]).prop_map(|key| key.into());
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 4000usize..6000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    (key, value).prop_map(|(key, value)| Entry { key, value })
}

fn descriptor() -> impl Strategy<Value = RateLimitDescriptor> {
    let limit =
        (any::<u32>(), 1..8, prop::option::of(any::<u32>())).prop_map(|(requests_per_unit, unit, unit_multiplier)| {
            RateLimitOverride { requests_per_unit, unit, unit_multiplier }
        });
    let hits = prop::option::of(prop_oneof![0u64..3, any::<u64>()]);
    (prop::collection::vec(entry(), 0..4), prop::option::of(limit), hits, any::<bool>()).prop_map(
        |(entries, limit, hits_addend, is_negative_hits)| RateLimitDescriptor {
            entries,
            limit,
            hits_addend,
            is_negative_hits,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn every_value_gets_a_decision(
        descriptors in prop::collection::vec(descriptor(), 1..4),
        hits_addend in any::<u32>(),
    ) {
        let message = RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        envoy_request(&[&[0], &length[..], &message].concat());
    }
}
