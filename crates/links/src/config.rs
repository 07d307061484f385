//! The configuration file, which is JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::network::{ALL, Change, Network};

/// What the proxy does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The path of the Unix socket for commands.
    pub control: PathBuf,
    /// The networks of each region. The longest prefix that has a client's address tells its region.
    pub regions: BTreeMap<String, Vec<IpNet>>,
    /// The conditions of links at the start. A link that is not named passes everything at once.
    #[serde(default)]
    pub links: Vec<Change>,
    /// The addresses at which clients of any region reach servers.
    pub listen: Vec<Listen>,
    /// The most bytes that each direction of a connection holds.
    #[serde(default = "default_buffer_bytes")]
    pub buffer_bytes: usize,
    /// The most connections at once. Others are closed at once.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Decides what is lost.
    #[serde(default)]
    pub seed: u64,
}

/// A listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Where clients connect to.
    pub address: SocketAddr,
    /// The region of the server.
    pub region: String,
    /// Where the server listens.
    pub target: SocketAddr,
}

/// 1 MiB: with 110 ms one way, up to 9 MB/s for a connection.
fn default_buffer_bytes() -> usize {
    1 << 20
}

fn default_max_connections() -> usize {
    4096
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Names everything that is wrong, a line each.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    ///
    /// Names everything that is wrong, a line each.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut errors = Vec::new();
        if config.regions.contains_key(ALL) {
            errors.push(format!("regions: {ALL} stands for every region, so no region can have this name"));
        }
        if !(1..=1 << 30).contains(&config.buffer_bytes) {
            errors.push("buffer_bytes: expected 1 to 1073741824".to_owned());
        }
        for (at, listen) in config.listen.iter().enumerate() {
            if !config.regions.contains_key(&listen.region) {
                errors.push(format!("listen[{at}].region: {} is not a region", listen.region));
            }
        }
        let network = Network::new(&Self { links: Vec::new(), ..config.clone() });
        for (at, change) in config.links.iter().enumerate() {
            errors.extend(network.change(change).err().map(|error| format!("links[{at}]: {error}")));
        }
        if errors.is_empty() { Ok(config) } else { Err(errors.join("\n")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_reported_with_its_place() {
        let text = r#"{ "control": "links.sock", "regions": { "east": ["10.1.0.0/16"], "all": [] }, "buffer_bytes": 0,
            "links": [{ "from": "east", "to": "west" }, { "from": "east", "to": "east", "loss": 1.0 },
                { "from": "east", "to": "east", "delay_ms": -1 }],
            "listen": [{ "address": "127.0.0.1:1", "region": "west", "target": "127.0.0.1:2" }] }"#;
        let error = Config::parse(text).unwrap_err();
        let places: Vec<&str> = error.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(
            places,
            ["regions", "buffer_bytes", "listen[0].region", "links[0]", "links[1]", "links[2]"],
            "{error}"
        );
        assert!(Config::parse(r#"{ "control": "c", "regions": {}, "listen": [], "delay": 1 }"#).is_err());
    }

    #[test]
    fn the_longest_prefix_tells_the_region_of_an_address() {
        let text = r#"{ "control": "c", "listen": [],
            "regions": { "east": ["192.0.2.0/24", "2001:db8::/48"], "california": ["192.0.2.0/26"] } }"#;
        let network = Network::new(&Config::parse(text).unwrap());
        for (address, region) in [
            ("192.0.2.7", Some("california")),
            ("192.0.2.70", Some("east")),
            ("::ffff:192.0.2.70", Some("east")),
            ("2001:db8::1", Some("east")),
            ("2001:db8:1::1", None),
        ] {
            assert_eq!(network.region_of(address.parse().unwrap()), region, "{address}");
        }
    }
}
