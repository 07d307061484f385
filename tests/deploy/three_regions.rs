//! Three regions that run on this machine. `scripts/regions` runs them, each in a network namespace of its own.

use std::fs::{File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::files::deploy;

/// A place, the address of a user there, and the region that is nearest.
pub const PLACES: [(&str, &str, usize); 4] = [
    ("california", "192.0.2.10", 0),
    ("virginia", "192.0.2.70", 0),
    ("london", "198.51.100.10", 1),
    ("tokyo", "203.0.113.10", 2),
];

/// Three regions, which end with the test.
pub struct Regions {
    folder: tempfile::TempDir,
    /// What the names of the namespaces begin with.
    prefix: String,
}

impl Regions {
    /// Starts the regions. `None` if this user may not.
    pub fn start() -> Option<Self> {
        let id = Command::new("id").arg("-u").output().unwrap();
        if id.stdout != b"0\n" {
            println!("NOT RUN: only root can make network namespaces with addresses of their own");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // PostgreSQL, which runs as another user, must reach its folder.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let mut regions = Self { folder, prefix: String::new() };
        let printed = regions.script(&["up"]);
        let (_, rest) = printed.split_once("in the namespace ").unwrap();
        rest.split_once("-users:").unwrap().0.clone_into(&mut regions.prefix);
        Some(regions)
    }

    /// The folder of the regions.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, tidegate: &Path) -> Command {
        let links = Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("links");
        assert!(links.exists(), "{} does not exist: cargo build --package links", links.display());
        let mut command = Command::new(deploy("../../scripts/regions"));
        command.env("TIDEGATE", tidegate).env("LINKS", links).env("DIR", self.folder.path());
        command
    }

    /// Runs `scripts/regions` with these arguments, and returns what it prints.
    pub fn script(&self, arguments: &[&str]) -> String {
        self.script_with(Path::new(env!("CARGO_BIN_EXE_tidegate")), arguments)
    }

    /// Like [`Self::script`], with another program for the nodes that it starts.
    pub fn script_with(&self, tidegate: &Path, arguments: &[&str]) -> String {
        let output = self.command(tidegate).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command in the namespace of a place, and returns what it prints, even when it fails.
    pub fn within(&self, place: &str, arguments: &[&str]) -> String {
        let command = &mut self.command(Path::new(env!("CARGO_BIN_EXE_tidegate")));
        let output = command.args(["exec", place]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does some work on a thread in the namespace of a place.
    pub fn inside<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> T {
        let enter = self.entrance(place);
        let work = || {
            enter();
            work()
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    /// What a thread calls to enter the namespace of a place.
    pub fn entrance(&self, place: &str) -> impl Fn() + Send + use<> {
        let path = PathBuf::from(format!("/run/netns/{}-{place}", self.prefix));
        move || {
            let namespace = File::open(&path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        }
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        let _ = self.command(Path::new(env!("CARGO_BIN_EXE_tidegate"))).args(["down", "--wipe"]).status();
    }
}
