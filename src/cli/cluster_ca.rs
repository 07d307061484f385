//! `tidegate cluster ca`: a certificate authority in a folder, and certificates that it signs.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, GlobalArgs, Output, output};
use crate::host::clock::SystemClock;
use crate::ports::Clock as _;
use crate::tls::authority::{AUTHORITY_DAYS, Authority, AuthorityError, Issued, pin_of_pem};
use crate::tls::settings::Pin;

/// The common name of authorities begins with it.
const AUTHORITY_NAME: &str = "Tidegate cluster CA";
/// The mode of private keys, of certificates and of the folder.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const FOLDER: u32 = 0o700;

#[derive(Args)]
pub struct ClusterCa {
    /// Folder of the authority; it is made if it does not exist
    dir: PathBuf,
    /// Signs a certificate for this node, or for another server, such as a PostgreSQL server
    #[arg(long, value_name = "NAME", value_parser = node_name, requires = "hosts")]
    node: Option<String>,
    /// A DNS name or an address at which others reach the node; repeatable
    #[arg(long = "host", value_name = "HOST", value_parser = host_name, requires = "node")]
    hosts: Vec<String>,
    /// How many days the node's certificate is valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Signs a new certificate for the key that the node has, so that its pin stays
    #[arg(long, requires = "node")]
    renew: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{} exists already: it is never overwritten", .0.display())]
    Exists(PathBuf),
    #[error("{}: {error}", .path.display())]
    Authority { path: PathBuf, error: AuthorityError },
}

/// The two files of a certificate.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(folder: &Path, name: &str) -> Self {
        let file = |suffix: &str| folder.join(format!("{name}{suffix}"));
        Self { certificate: file(".pem"), key: file("-key.pem") }
    }

    /// Writes both, neither of which may exist.
    fn write(&self, issued: &Issued) -> Result<(), Failure> {
        for path in [&self.certificate, &self.key] {
            if path.symlink_metadata().is_ok() {
                return Err(Failure::Exists(path.clone()));
            }
        }
        write_new(&self.key, &issued.key, SECRET)?;
        write_new(&self.certificate, &issued.certificate, PUBLIC)
    }

    fn json(&self, pin: Pin, expires_at: Option<u64>) -> Value {
        let (certificate, key) = (self.certificate.display().to_string(), self.key.display().to_string());
        let mut files = json!({ "certificate": certificate, "key": key, "pin": pin.to_string() });
        if let Some(expires_at) = expires_at {
            files["expires_at"] = expires_at.into();
        }
        files
    }
}

impl ClusterCa {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let now = SystemClock::new().wall().0 / 1_000_000;
        match self.make(now, global.output) {
            Ok(()) => Exit::Ok,
            Err(failure) => {
                eprintln!("{failure}");
                output::wrong(global.output, &[json!({ "message": failure.to_string() })]);
                Exit::Failed
            }
        }
    }

    fn make(&self, now: u64, output: Output) -> Result<(), Failure> {
        let mut folder = DirBuilder::new();
        let made = folder.recursive(true).mode(FOLDER).create(&self.dir);
        made.map_err(|error| Failure::File { path: self.dir.clone(), error })?;
        let files = Files::new(&self.dir, "ca");
        let is_there = files.certificate.symlink_metadata().is_ok() || files.key.symlink_metadata().is_ok();
        // An authority that is there signs. Without a node there is nothing else to do than to make one.
        let (authority, made) = match &self.node {
            Some(_) if is_there => (open(&files)?, None),
            _ => {
                let (authority, issued) = Authority::create(AUTHORITY_NAME, now).map_err(at(&files.certificate))?;
                files.write(&issued)?;
                (authority, Some(issued))
            }
        };
        let pin = match &made {
            Some(issued) => issued.pin,
            None => pin_of_pem(&read(&files.certificate)?).map_err(at(&files.certificate))?,
        };
        let mut report = json!({ "ca": files.json(pin, made.as_ref().map(|issued| issued.expires_at)) });
        let mut lines = Vec::new();
        if made.is_some() {
            lines.push(line("authority", &files, pin, AUTHORITY_DAYS));
        }
        if let Some(name) = &self.node {
            let files = Files::new(&self.dir, name);
            let issued = self.issue(&authority, name, &files, now)?;
            lines.push(line(name, &files, issued.pin, self.days));
            let mut node = files.json(issued.pin, Some(issued.expires_at));
            node["name"] = name.as_str().into();
            report["node"] = node;
        }
        match output {
            Output::Json => outln!("{report}"),
            Output::Table => lines.iter().for_each(|line| outln!("{line}")),
        }
        Ok(())
    }

    fn issue(&self, authority: &Authority, name: &str, files: &Files, now: u64) -> Result<Issued, Failure> {
        if !self.renew {
            let issued = authority.issue(name, &self.hosts, None, now, self.days).map_err(at(&files.certificate))?;
            files.write(&issued)?;
            return Ok(issued);
        }
        let key = read(&files.key)?;
        let issued = authority.issue(name, &self.hosts, Some(&key), now, self.days).map_err(at(&files.key))?;
        // A node that watches the file sees the old certificate or the new one.
        let next = files.certificate.with_extension("pem.new");
        write_new(&next, &issued.certificate, PUBLIC)?;
        fs::rename(&next, &files.certificate).map_err(|error| Failure::File { path: next, error })?;
        Ok(issued)
    }
}

fn line(name: &str, files: &Files, pin: Pin, days: u32) -> String {
    let Files { certificate, key } = files;
    format!("{name}: {} and {}, valid for {days} days, pin {pin}", certificate.display(), key.display())
}

fn open(files: &Files) -> Result<Authority, Failure> {
    Authority::open(&read(&files.certificate)?, &read(&files.key)?).map_err(at(&files.certificate))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::File { path: path.to_owned(), error })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::Exists(path.to_owned()),
        _ => Failure::File { path: path.to_owned(), error },
    })
}

fn at(path: &Path) -> impl FnOnce(AuthorityError) -> Failure {
    let path = path.to_owned();
    |error| Failure::Authority { path, error }
}

/// Reads the name of a node, which is part of a file's name.
fn node_name(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = (1..=64).contains(&text.len()) && text.chars().all(fits) && !text.starts_with('.') && text != "ca";
    good.then(|| text.to_owned()).ok_or("expected 1 to 64 letters, digits, dots, dashes or underscores, and not ca")
}

/// Reads a DNS name or an address.
fn host_name(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    let is_name = (1..=253).contains(&text.len()) && text.chars().all(fits);
    let good = is_name || text.parse::<std::net::IpAddr>().is_ok();
    good.then(|| text.to_owned()).ok_or("expected a DNS name or an address, without a port")
}
