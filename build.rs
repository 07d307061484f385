//! Compiles the protobuf files, without `protoc`, and notes the commit for `--version`.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["tidegate/v1/tidegate.proto", "envoy/service/ratelimit/v3/rls.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".tidegate")
        .codec_path("crate::api::codec::Lean")
        .compile_fds(descriptors)?;

    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit =
        commit.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    println!("cargo::rustc-env=TIDEGATE_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    Ok(())
}
