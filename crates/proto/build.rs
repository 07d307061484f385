//! Compiles the protobuf files, without `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;
use tonic_prost_build::{Config, manual};

const PROTO: &str = "../../proto";
/// Clients of a gateway choose these values. They are strings in Envoy's API and are read as bytes, because a string
/// that is not UTF-8 would make the whole call an error.
const READ_AS_BYTES: (&str, &str) = ("RateLimitDescriptor", "Entry");

fn main() -> Result<(), Box<dyn Error>> {
    let native = "tidegate/v1/tidegate.proto";
    let admin = "tidegate/admin/v1/admin.proto";
    let envoy = "envoy/service/ratelimit/v3/rls.proto";
    let cluster = ["tidegate/cluster/cluster.proto", "tidegate/cluster/gossip.proto"];
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The listener for checks shows what it serves. The admin API is on another.
    let all = protox::compile([native, envoy], [PROTO])?;
    std::fs::write(out.join("descriptors.bin"), all.encode_to_vec())?;

    let configure = || tonic_prost_build::configure().codec_path("crate::SmallBufferCodec");
    configure().btree_map(".tidegate").compile_fds(protox::compile([native, admin], [PROTO])?)?;
    // The calls between nodes are no public API: reflection does not list them.
    tonic_prost_build::configure().compile_fds(protox::compile(cluster, [PROTO])?)?;
    let mut messages = protox::compile([envoy], [PROTO])?;
    read_as_bytes(&mut messages);
    let mut named = Config::new();
    named.enable_type_names();
    configure().build_server(false).compile_fds_with_config(messages, named)?;
    // The server of Envoy's call gets each message with the fields in it that are unknown.
    let method = manual::Method::builder()
        .name("should_rate_limit")
        .route_name("ShouldRateLimit")
        .input_type("crate::Checked<crate::envoy::service::ratelimit::v3::RateLimitRequest>")
        .output_type("crate::envoy::service::ratelimit::v3::RateLimitResponse")
        .codec_path("crate::CheckedCodec")
        .build();
    let service = manual::Service::builder()
        .name("RateLimitService")
        .package("envoy.service.ratelimit.v3")
        .method(method)
        .build();
    manual::Builder::new().build_client(false).compile(&[service]);
    println!("cargo::rerun-if-changed={PROTO}");
    Ok(())
}

fn read_as_bytes(messages: &mut FileDescriptorSet) {
    let (message, nested) = READ_AS_BYTES;
    let messages = messages.file.iter_mut().flat_map(|file| &mut file.message_type).filter(|m| m.name() == message);
    let nested = messages.flat_map(|m| &mut m.nested_type).filter(|m| m.name() == nested);
    nested.flat_map(|m| &mut m.field).for_each(|field| field.set_type(Type::Bytes));
}
