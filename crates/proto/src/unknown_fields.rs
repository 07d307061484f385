//! The fields of a message that this version does not know. A library skips them, and their meaning is lost with them:
//! a field of a newer version may say that hits are given back, or that a number counts in other units.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// The most fields that are named.
const MAX_NAMED: usize = 8;

/// The known fields of every message, by the full name of the message and the number of the field.
static KNOWN: LazyLock<HashMap<String, HashMap<u32, Known>>> = LazyLock::new(|| {
    let mut known = HashMap::new();
    // They are made by the build script, and valid.
    for file in FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap_or_default().file {
        for message in &file.message_type {
            add(&format!("{}.{}", file.package(), message.name()), message, &mut known);
        }
    }
    known
});

/// A known field.
struct Known {
    name: String,
    repeated: bool,
    /// The full name of its message; empty for a field of another type.
    message: String,
}

fn add(name: &str, message: &DescriptorProto, known: &mut HashMap<String, HashMap<u32, Known>>) {
    let field = |field: &prost_types::FieldDescriptorProto| {
        let number = u32::try_from(field.number()).unwrap_or(0);
        let message = field.type_name().trim_start_matches('.').to_owned();
        (number, Known { name: field.name().to_owned(), repeated: field.label() == Label::Repeated, message })
    };
    known.insert(name.to_owned(), message.field.iter().map(field).collect());
    for nested in &message.nested_type {
        add(&format!("{name}.{}", nested.name()), nested, known);
    }
}

/// The unknown fields of an encoded message with this full name, by their places and numbers. The message must have
/// been decoded without an error.
pub fn unknown_fields(message: &str, bytes: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    // What cannot be read is not in a message that was decoded.
    let _ = find(message, "", bytes, &mut out);
    out
}

/// Adds the unknown fields of the message at `place`. `None` if its encoding is not valid.
fn find(message: &str, place: &str, mut bytes: &[u8], out: &mut Vec<String>) -> Option<()> {
    let fields = KNOWN.get(message)?;
    let mut counts: HashMap<u32, usize> = HashMap::new();
    while !bytes.is_empty() && out.len() < MAX_NAMED {
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let Some(Known { name, repeated, message }) = fields.get(&number) else {
            out.push(format!("{place}{number}"));
            skip_field(wire_type, number, &mut bytes, DecodeContext::default()).ok()?;
            continue;
        };
        if wire_type != WireType::LengthDelimited || !KNOWN.contains_key(message) {
            skip_field(wire_type, number, &mut bytes, DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
        let (inner, rest) = bytes.split_at_checked(length)?;
        let at = counts.entry(number).or_default();
        let place = if *repeated { format!("{place}{name}[{at}].") } else { format!("{place}{name}.") };
        *at += 1;
        find(message, &place, inner, out)?;
        bytes = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
    use crate::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
    use crate::envoy::service::ratelimit::v3::RateLimitRequest;

    const REQUEST: &str = "envoy.service.ratelimit.v3.RateLimitRequest";

    fn request() -> RateLimitRequest {
        let entries = vec![Entry { key: b"k".to_vec(), value: vec![0xff; 300] }];
        let limit = Some(RateLimitOverride { requests_per_unit: 1, unit: 1, unit_multiplier: Some(30) });
        let full = RateLimitDescriptor { entries, limit, hits_addend: Some(0), is_negative_hits: true };
        let descriptors = vec![RateLimitDescriptor::default(), full];
        RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend: 7 }
    }

    /// A field of length-delimited type.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn unknown_fields_are_named_by_their_place() {
        let known = request().encode_to_vec();
        let varint = [14 << 3, 1];
        let table = [
            (Vec::new(), vec![]),
            (varint.to_vec(), vec!["14"]),
            (field(2, &varint), vec!["descriptors[2].14"]),
            (field(2, &field(1, &varint)), vec!["descriptors[2].entries[0].14"]),
            (field(2, &[field(1, b""), field(1, &field(9, b"x"))].concat()), vec!["descriptors[2].entries[1].9"]),
            (field(2, &field(2, &varint)), vec!["descriptors[2].limit.14"]),
            (field(2, &field(2, &field(3, &varint))), vec!["descriptors[2].limit.unit_multiplier.14"]),
            (field(2, &field(3, &varint)), vec!["descriptors[2].hits_addend.14"]),
            ([field(2, &[5 << 3, 1]), varint.to_vec()].concat(), vec!["descriptors[2].5", "14"]),
        ];
        for (extra, unknown) in table {
            assert_eq!(unknown_fields(REQUEST, &[known.clone(), extra].concat()), unknown);
        }
        let many = varint.repeat(100);
        assert_eq!(unknown_fields(REQUEST, &many).len(), MAX_NAMED);
    }

    #[test]
    fn bytes_that_are_no_message_end_the_search() {
        let known = request().encode_to_vec();
        for end in 0..known.len() {
            assert_eq!(unknown_fields(REQUEST, &known[..end]), Vec::<String>::new());
        }
        assert_eq!(unknown_fields("no.such.Message", &known), Vec::<String>::new());
    }
}
