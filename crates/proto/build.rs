//! Compiles the protobuf files, without `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const PROTO: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["tidegate/v1/tidegate.proto", "envoy/service/ratelimit/v3/rls.proto"];
    let descriptors = protox::compile(files, [PROTO])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".tidegate")
        .codec_path("crate::SmallBufferCodec")
        .compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed={PROTO}");
    Ok(())
}
