//! The commands of `tidegate rules` that read and change the rules of a running node.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde_json::{Value, json};

use super::{book_diff, git, refused};
use crate::cli::admin_client::{AdminArgs, AdminClient, Call, segment};
use crate::cli::confirm::confirm;
use crate::cli::{Exit, Output, output};
use crate::rulefile::decode::read_rules;
use crate::rulefile::diff::differences;
use crate::rulefile::encode::{duration, rules_json, rules_yaml};
use crate::rulefile::watch::{load, read};
use limiter::Revision;
use limiter::rules::{Period, Quota, Rules};

#[derive(Subcommand)]
pub enum Book {
    /// Put the rules of a file in force, after showing what changes
    Apply(Apply),
    /// Show the rules in force
    List(Shared),
    /// Put one limit: an entry of `limits` in a rule file, as YAML or JSON
    Put(Put),
    /// Remove one limit
    Rm(Remove),
    /// Show what a file, or a revision, would change
    Diff(DiffArgs),
    /// Print the rules in force as YAML, or commit them to a git work tree
    Export(Export),
    /// Show the revisions of the rules
    History(Shared),
    /// Show transactions in PostgreSQL that are not in force, because the rules would not be valid with them
    Refused(Shared),
    /// Put the rules as of a revision in force again
    Rollback(Rollback),
}

#[derive(Args)]
pub struct Shared {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Apply {
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Put {
    /// Domain and limit
    #[arg(value_name = "DOMAIN/LIMIT", value_parser = domain_and_limit)]
    name: (String, String),
    /// File with the limit; - reads standard input
    file: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Remove {
    /// Domain and limit
    #[arg(value_name = "DOMAIN/LIMIT", value_parser = domain_and_limit)]
    name: (String, String),
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct DiffArgs {
    /// A rule file
    #[arg(required_unless_present = "revision")]
    file: Option<PathBuf>,
    /// A revision, instead of a file
    #[arg(long, conflicts_with = "file")]
    revision: Option<u64>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Export {
    /// Write rules.yaml into this git work tree and commit it
    #[arg(long, value_name = "DIR")]
    git: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Rollback {
    revision: u64,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A limit is named without a slash; a domain may have one.
fn domain_and_limit(text: &str) -> Result<(String, String), String> {
    let pair = text.rsplit_once('/').filter(|(domain, limit)| !domain.is_empty() && !limit.is_empty());
    let pair = pair.map(|(domain, limit)| (domain.to_owned(), limit.to_owned()));
    pair.ok_or_else(|| "expected domain/limit".to_owned())
}

impl Book {
    pub fn run(self, output: Output) -> Exit {
        let done = match self {
            Self::Apply(apply) => apply.run(output),
            Self::List(shared) => list(&shared, output),
            Self::Put(put) => put.run(output),
            Self::Rm(remove) => remove.run(output),
            Self::Diff(diff) => diff.run(output),
            Self::Export(export) => export.run(output),
            Self::History(shared) => history(&shared, output),
            Self::Refused(shared) => shared.admin.client(output).and_then(|client| refused::show(&client, output)),
            Self::Rollback(rollback) => rollback.run(output),
        };
        done.err().unwrap_or(Exit::Ok)
    }
}

/// The rules of the node, in force or as of a revision.
fn rules_of(client: &AdminClient, revision: Option<u64>) -> Result<(Rules, u64), Exit> {
    let path = revision.map_or_else(|| "/rules".to_owned(), |revision| format!("/rules?revision={revision}"));
    let reply = client.call(Call::new("GET", path))?;
    let rules = read_rules(&String::from_utf8_lossy(&reply.body)).map_err(|problems| {
        problems.iter().for_each(|problem| eprintln!("the node has rules that this program cannot read: {problem}"));
        Exit::Failed
    })?;
    Ok((rules, reply.revision.unwrap_or(0)))
}

/// Prints the outcome of a change.
fn changed(output: Output, reply: &Value) {
    if output == Output::Json {
        outln!("{reply}");
        return;
    }
    let revision = &reply["revision"];
    match reply["in_force"] == true {
        true => outln!("{}: revision {revision} is in force at this node", output::word("done", true)),
        false => outln!("revision {revision} is written, and not yet in force at this node"),
    }
}

impl Apply {
    fn run(&self, output: Output) -> Result<(), Exit> {
        let loaded = load(&self.file, Revision(1)).map_err(|invalid| super::bad(output, &invalid))?;
        let client = self.admin.client(output)?;
        let (old, revision) = rules_of(&client, None)?;
        let differences = differences(&old, loaded.book.rules());
        let overwritten = refused::overwritten(&refused::fetch(&client)?, loaded.book.rules());
        let for_people = output == Output::Table;
        if for_people {
            book_diff::print(&differences);
            refused::print(&overwritten);
        }
        // The order of limits is no difference for people, but answers show it.
        if old == **loaded.book.rules() && overwritten.is_empty() {
            match for_people {
                true => outln!("nothing changes: revision {revision} has these rules"),
                false => outln!("{}", json!({ "revision": revision, "in_force": true, "changes": [] })),
            }
            return Ok(());
        }
        if !self.yes && !io::stdin().is_terminal() {
            eprintln!("nothing was changed: without a terminal, confirm with --yes");
            return Err(Exit::Failed);
        }
        confirm(self.yes, "Put these rules in force?")?;
        let call = Call::new("PUT", "/rules");
        let reply = client.call(Call {
            headers: vec![("if-match", format!("\"{revision}\""))],
            body: rules_json(loaded.book.rules()).to_string().into(),
            ..call
        })?;
        let mut reply = reply.json();
        if !for_people {
            reply["changes"] = json!(differences);
            reply["refused"] = json!(overwritten);
        }
        changed(output, &reply);
        Ok(())
    }
}

fn list(shared: &Shared, output: Output) -> Result<(), Exit> {
    let client = shared.admin.client(output)?;
    let (rules, revision) = rules_of(&client, None)?;
    if output == Output::Json {
        outln!("{}", json!({ "revision": revision, "book": rules_json(&rules) }));
        return Ok(());
    }
    outln!("revision {revision}");
    let mut table = output::table(&["domain", "limit", "per", "hits", "window", "algorithm"]);
    for domain in &rules.domains {
        for limit in &domain.limits {
            let hits = match limit.limit {
                Quota::Hits(hits) => hits.to_string(),
                Quota::Unlimited => "unlimited".to_owned(),
            };
            let window = match &limit.period {
                Period::Window { ms } => duration(*ms),
                Period::Calendar { unit, time_zone } => format!("{unit:?} of {time_zone}").to_lowercase(),
            };
            let per: Vec<String> = limit.per.iter().map(ToString::to_string).collect();
            let algorithm = limit.algorithm.as_str().to_owned();
            let row = [domain.domain.clone(), limit.name.clone(), per.join(", "), hits, window, algorithm];
            table.add_row(row.map(Cell::new));
        }
    }
    outln!("{table}");
    refused::hint(refused::fetch(&client)?.len() as u64);
    Ok(())
}

impl Put {
    fn run(&self, output: Output) -> Result<(), Exit> {
        let text = if self.file.as_os_str() == "-" {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map(|_| text).map_err(|error| {
                eprintln!("standard input: {error}");
                Exit::Failed
            })?
        } else {
            read(&self.file).map_err(|error| {
                eprintln!("{error}");
                Exit::Failed
            })?
        };
        let client = self.admin.client(output)?;
        let reply = client.call(Call { body: text.into(), ..Call::new("PUT", path(&self.name)) })?;
        changed(output, &reply.json());
        Ok(())
    }
}

fn path((domain, limit): &(String, String)) -> String {
    format!("/domains/{}/limits/{}", segment(domain), segment(limit))
}

impl Remove {
    fn run(&self, output: Output) -> Result<(), Exit> {
        let reply = self.admin.client(output)?.call(Call::new("DELETE", path(&self.name)))?;
        changed(output, &reply.json());
        Ok(())
    }
}

impl DiffArgs {
    fn run(&self, output: Output) -> Result<(), Exit> {
        let new = match &self.file {
            Some(file) => Some(load(file, Revision(1)).map_err(|invalid| super::bad(output, &invalid))?.book),
            None => None,
        };
        let client = self.admin.client(output)?;
        let (old, revision) = rules_of(&client, None)?;
        let differences = match new {
            Some(book) => differences(&old, book.rules()),
            None => differences(&old, &rules_of(&client, self.revision)?.0),
        };
        match output {
            Output::Json => outln!("{}", json!({ "revision": revision, "changes": differences })),
            Output::Table if differences.is_empty() => outln!("no difference to revision {revision}"),
            Output::Table => book_diff::print(&differences),
        }
        Ok(())
    }
}

impl Export {
    fn run(&self, output: Output) -> Result<(), Exit> {
        let (rules, revision) = rules_of(&self.admin.client(output)?, None)?;
        let yaml = rules_yaml(&rules);
        let Some(folder) = &self.git else {
            match output {
                Output::Json => outln!("{}", rules_json(&rules)),
                Output::Table => outln!("{}", yaml.trim_end()),
            }
            return Ok(());
        };
        let committed = git::commit(folder, &yaml, revision).map_err(|error| {
            eprintln!("{}: {error}", folder.display());
            Exit::Failed
        })?;
        match (output, committed) {
            (Output::Json, committed) => outln!("{}", json!({ "revision": revision, "committed": committed })),
            (Output::Table, true) => outln!("{}: committed revision {revision}", folder.display()),
            (Output::Table, false) => outln!("{}: nothing to commit: revision {revision} is there", folder.display()),
        }
        Ok(())
    }
}

fn history(shared: &Shared, output: Output) -> Result<(), Exit> {
    let client = shared.admin.client(output)?;
    output::rows(output, &["revision", "actor", "rows", "at"], &client.list("/rules/history")?);
    if output == Output::Table {
        refused::hint(refused::fetch(&client)?.len() as u64);
    }
    Ok(())
}

impl Rollback {
    fn run(&self, output: Output) -> Result<(), Exit> {
        let client = self.admin.client(output)?;
        let ((old, current), (new, _)) = (rules_of(&client, None)?, rules_of(&client, Some(self.revision))?);
        if output == Output::Table {
            book_diff::print(&differences(&old, &new));
            refused::print(&refused::overwritten(&refused::fetch(&client)?, &new));
        }
        confirm(self.yes, "Put these rules in force again?")?;
        let headers = vec![("if-match", format!("\"{current}\""))];
        let call = Call { headers, ..Call::new("POST", "/rules/rollback") };
        changed(output, &client.call(call.json(&json!({ "revision": self.revision })))?.json());
        Ok(())
    }
}
