//! The API of Envoy's rate limit service as lines of text, one for each field and each value of an enum.

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// Returns a line for each field: `package.Message.field = 1 string`, or `… = 2 repeated package.Message`, and for each
/// value of an enum: `package.Enum.VALUE = 0`. Lines that are not of
/// the rate limit service are left out.
pub fn lines(file: &FileDescriptorProto) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for message in &file.message_type {
        add_message(&format!("{}.{}", file.package(), message.name()), message, &mut out);
    }
    for kind in &file.enum_type {
        add_enum(&format!("{}.{}", file.package(), kind.name()), kind, &mut out);
    }
    out.into_iter().filter(|line| is_of_rate_limit_service(line)).collect()
}

fn add_message(name: &str, message: &DescriptorProto, out: &mut BTreeSet<String>) {
    for field in &message.field {
        let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
        let scalar = format!("{:?}", field.r#type()).to_lowercase();
        let kind = field.type_name.as_deref().map_or(scalar, |name| name.trim_start_matches('.').to_owned());
        out.insert(format!("{name}.{} = {} {repeated}{kind}", field.name(), field.number()));
    }
    for nested in &message.nested_type {
        add_message(&format!("{name}.{}", nested.name()), nested, out);
    }
    for kind in &message.enum_type {
        add_enum(&format!("{name}.{}", kind.name()), kind, out);
    }
}

fn add_enum(name: &str, kind: &EnumDescriptorProto, out: &mut BTreeSet<String>) {
    for value in &kind.value {
        out.insert(format!("{name}.{} = {}", value.name(), value.number()));
    }
}

/// True for a line of the API of Envoy's rate limit service.
fn is_of_rate_limit_service(line: &str) -> bool {
    const NAMES: [&str; 4] = [
        "envoy.service.ratelimit.v3.",
        "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.",
        "envoy.type.v3.RateLimitUnit.",
        "envoy.config.core.v3.HeaderValue.",
    ];
    NAMES.iter().any(|name| line.starts_with(name))
}
