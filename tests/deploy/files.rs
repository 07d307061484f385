//! The regions of `deploy/regions`.

use std::path::{Path, PathBuf};

/// The regions, in the order of their networks: 10.1.0.0/24, 10.2.0.0/24 and 10.3.0.0/24.
pub const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-northeast"];
/// The public addresses of the load balancers of each region.
pub const LOAD_BALANCERS: [[&str; 2]; 3] =
    [["192.0.2.250", "192.0.2.251"], ["198.51.100.250", "198.51.100.251"], ["203.0.113.250", "203.0.113.251"]];

/// Returns a path below the folder of the regions' files.
pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/regions").join(path)
}
