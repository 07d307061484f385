//! `tidegate cluster`: form and manage a cluster of nodes.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{AdminArgs, AdminClient, Call, segment};
use super::cluster_ca::ClusterCa;
use super::confirm::confirm;
use super::rules::refused;
use super::{Exit, GlobalArgs, Output, output};

#[derive(Args)]
pub struct Shared {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct OfNode {
    node: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Remove {
    #[command(flatten)]
    of: OfNode,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub struct OfFile {
    file: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Restore {
    #[command(flatten)]
    of: OfFile,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Subcommand)]
pub enum Cluster {
    /// Form a new cluster, once
    Init {
        /// Names of the voters, and how they are reached
        #[arg(long, required = true, value_name = "NAME=HOST:PORT", value_delimiter = ',', value_parser = voter)]
        voters: Vec<(String, String)>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the leader, the revision and the members
    Status(Shared),
    /// Show the members
    Members(Shared),
    /// Make a learner a voter
    Promote(OfNode),
    /// Make a voter a learner
    Demote(OfNode),
    /// Remove a member
    Remove(Remove),
    /// The settings that all nodes share
    #[command(subcommand)]
    Settings(Settings),
    /// Write a snapshot and compact the log of the node that is asked
    Snapshot(Shared),
    /// Write the replicated configuration into a new file
    Backup(OfFile),
    /// Replace the state of the whole cluster by that of a backup
    Restore(Restore),
    /// Make a certificate authority, and certificates that it signs
    Ca(ClusterCa),
}

#[derive(Subcommand)]
pub enum Settings {
    /// Show the settings
    Get(Shared),
    /// Set settings
    Set {
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = super::check::attribute)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

fn voter(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, address)| !name.is_empty() && address.contains(':'));
    pair.map(|(name, address)| (name.to_owned(), address.to_owned()))
        .ok_or_else(|| "expected name=host:port".to_owned())
}

/// A value in JSON, or else a text.
fn setting(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn done(admin: &AdminArgs, output: Output, call: Call<'_>) -> Result<(), Exit> {
    let reply = admin.client(output)?.call(call)?.json();
    match output {
        Output::Json if reply.is_null() => outln!("{}", json!({ "ok": true })),
        Output::Json => outln!("{reply}"),
        Output::Table => outln!("{}", output::word("done", true)),
    }
    Ok(())
}

fn get(admin: &AdminArgs, output: Output, path: &str) -> Result<Value, Exit> {
    Ok(admin.client(output)?.call(Call::new("GET", path))?.json())
}

impl Cluster {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let output = global.output;
        let member = |node: &str, action: &str| format!("/cluster/members/{}{action}", segment(node));
        let result = match self {
            Self::Ca(ca) => return ca.run(global),
            Self::Init { voters, admin } => {
                let named: BTreeMap<String, String> = voters.iter().cloned().collect();
                if named.len() < voters.len() {
                    eprintln!("--voters: expected each name once");
                    return Exit::Failed;
                }
                if voters.len() % 2 == 0 {
                    eprintln!("an even number of voters survives no more failures than one less: use three or five");
                }
                done(&admin, output, Call::new("POST", "/cluster/init").json(&json!({ "voters": named })))
            }
            Self::Status(Shared { admin }) => get(&admin, output, "/cluster").map(|status| show(output, &status)),
            Self::Members(Shared { admin }) => {
                let all = get(&admin, output, "/cluster");
                all.map(|status| match output {
                    Output::Json => outln!("{}", status["members"]),
                    Output::Table => members(&status),
                })
            }
            Self::Promote(OfNode { node, admin }) => done(&admin, output, Call::new("POST", member(&node, "/promote"))),
            Self::Demote(OfNode { node, admin }) => done(&admin, output, Call::new("POST", member(&node, "/demote"))),
            Self::Remove(Remove { of: OfNode { node, admin }, yes }) => {
                let asked = confirm(yes, &format!("Remove the node {node} from the cluster?"));
                asked.and_then(|()| done(&admin, output, Call::new("DELETE", member(&node, ""))))
            }
            Self::Settings(Settings::Get(Shared { admin })) => {
                get(&admin, output, "/cluster/settings").map(|settings| match output {
                    Output::Json => outln!("{settings}"),
                    Output::Table => show_settings(&settings),
                })
            }
            Self::Settings(Settings::Set { settings, admin }) => {
                let body = settings.iter().map(|(name, value)| (name.clone(), setting(value)));
                done(&admin, output, Call::new("PUT", "/cluster/settings").json(&Value::Object(body.collect())))
            }
            Self::Snapshot(Shared { admin }) => done(&admin, output, Call::new("POST", "/cluster/snapshot")),
            Self::Backup(OfFile { file, admin }) => {
                admin.client(output).and_then(|client| backup(&client, &file, output))
            }
            Self::Restore(Restore { of: OfFile { file, admin }, yes }) => {
                let read = std::fs::read(&file).map_err(|error| failed(&file, &error));
                read.and_then(|body| {
                    confirm(yes, "Replace the configuration of the whole cluster by this backup?")?;
                    done(&admin, output, Call { body, ..Call::new("POST", "/cluster/restore") })
                })
            }
        };
        result.err().unwrap_or(Exit::Ok)
    }
}

fn failed(file: &Path, error: &std::io::Error) -> Exit {
    eprintln!("{}: {error}", file.display());
    Exit::Failed
}

/// Writes a backup into a new file that only its owner can read. It is complete, or not there.
fn backup(client: &AdminClient, file: &Path, output: Output) -> Result<(), Exit> {
    let body = client.call(Call::new("GET", "/cluster/backup"))?.body;
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut created = created.map_err(|error| failed(file, &error))?;
    if let Err(error) = created.write_all(&body).and_then(|()| created.sync_all()) {
        let _ = std::fs::remove_file(file);
        return Err(failed(file, &error));
    }
    match output {
        Output::Json => outln!("{}", json!({ "file": file, "bytes": body.len() })),
        Output::Table => outln!("{}: {} bytes", file.display(), body.len()),
    }
    Ok(())
}

/// Prints every setting that there is, set or not.
fn show_settings(set: &Value) {
    let mut table = output::table(&["setting", "value", "default", "unit", "meaning"]);
    for setting in plane::SETTINGS {
        let value = set.get(setting.name).map_or_else(|| "(default)".to_owned(), output::plain);
        table.add_row([setting.name, &value, &setting.default.to_string(), setting.unit(), setting.help]);
    }
    outln!("{table}");
}

fn show(output: Output, status: &Value) {
    if output == Output::Json {
        outln!("{status}");
        return;
    }
    let text = |field: &str| status[field].as_str().unwrap_or("unknown");
    let is_member = status["members"].as_array().is_some_and(|members| !members.is_empty());
    if text("name").is_empty() && !is_member {
        outln!("no cluster, the rules come from a file, revision {}", status["revision"]);
    } else {
        outln!("cluster {}, leader {}, revision {}", text("name"), text("leader"), status["revision"]);
        members(status);
    }
    regions(status);
    refused::hint(status["refused"].as_u64().unwrap_or(0));
}

/// Prints what the node knows of the other regions, if there are any.
fn regions(status: &Value) {
    let regions: Vec<&Value> = status["regions"].as_array().into_iter().flatten().collect();
    if regions.is_empty() {
        return;
    }
    let mut table = output::table(&[
        "other region",
        "weight",
        "hears this node",
        "last heard",
        "round trip",
        "keys behind",
        "rights taken",
    ]);
    for region in regions {
        let ms = |field: &str| region[field].as_u64().map(output::length);
        let partitioned = region["partitioned"] == true;
        let hears = output::word(if partitioned { "no: partitioned" } else { "yes" }, !partitioned);
        let heard = ms("heard_age_ms").map_or_else(|| "never".to_owned(), |ms| format!("{ms} ago"));
        let trip = ms("round_trip_ms").unwrap_or_else(|| "–".to_owned());
        let cell = |field: &str| output::plain(&region[field]);
        table.add_row([cell("region"), cell("weight"), hears, heard, trip, cell("behind_keys"), cell("rights_taken")]);
    }
    outln!("{table}");
}

fn members(status: &Value) {
    let mut table = output::table(&["node", "region", "role", "address", "revision", "last seen"]);
    for member in status["members"].as_array().into_iter().flatten() {
        let cell = |field: &str| output::plain(&member[field]);
        let seen = member["last_seen_ms"].as_u64().map(|ms| format!("{} ago", output::length(ms)));
        let seen = seen.unwrap_or_else(|| "–".to_owned());
        table.add_row(["name", "region", "role", "address", "revision"].map(cell).into_iter().chain([seen]));
    }
    outln!("{table}");
}
