//! `tidegate tiers`, `users` and `keys`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{AdminArgs, Call, segment};
use super::confirm::confirm;
use super::{Exit, Output, output};

#[derive(Args)]
pub struct Shared {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct Named {
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand)]
pub enum Tiers {
    /// Show the tiers
    List(Shared),
    /// Create or change a tier
    Put {
        name: String,
        /// For people; without it, the tier keeps the one it has
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a tier
    Rm(Named),
}

#[derive(Subcommand)]
pub enum Users {
    /// Show the users
    List(Shared),
    /// Create or change a user
    Put {
        name: String,
        /// The tier of the user's keys that have none; without it, the user keeps the one it has
        #[arg(long, conflicts_with = "no_tier")]
        tier: Option<String>,
        /// Take the user's tier away
        #[arg(long)]
        no_tier: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a user, with the user's keys
    Rm(Named),
}

#[derive(Subcommand)]
pub enum Keys {
    /// Create a key; it is shown this once
    Create {
        #[arg(long)]
        user: String,
        /// The tier of this key; otherwise that of its user
        #[arg(long)]
        tier: Option<String>,
        /// How long it counts, such as 90d; otherwise for ever
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the keys, without the keys themselves
    List {
        /// Those of one user
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Revoke a key
    Revoke {
        #[arg(value_name = "KEY_ID")]
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Create a key for the same user, and let the old one expire
    Rotate {
        #[arg(value_name = "KEY_ID")]
        id: String,
        /// How long the old key still counts, such as 1h; without it, the old key ends at once
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
        /// How long the new key counts, such as 90d; otherwise until the old key would have expired
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

fn list(admin: &AdminArgs, output: Output, path: &str, columns: &[&str]) -> Result<(), Exit> {
    let rows = admin.client(output)?.list(path)?;
    output::rows(output, columns, &rows);
    Ok(())
}

fn change(admin: &AdminArgs, output: Output, call: Call<'_>) -> Result<(), Exit> {
    let reply = admin.client(output)?.call(call)?.json();
    match output {
        Output::Json => outln!("{reply}"),
        Output::Table => outln!("{}: revision {}", output::word("done", true), reply["revision"]),
    }
    Ok(())
}

/// Creates a row with `empty`, or leaves it as it is if it exists.
fn keep(admin: &AdminArgs, output: Output, path: String, empty: &Value) -> Result<(), Exit> {
    if admin.client(output)?.find(&path)?.is_none() {
        return change(admin, output, Call::new("PUT", path).json(empty));
    }
    match output {
        Output::Json => outln!("{}", json!({ "in_force": true, "changed": false })),
        Output::Table => outln!("nothing changes: it exists, and no flag says what to change"),
    }
    Ok(())
}

/// Prints a new key.
fn created(admin: &AdminArgs, output: Output, call: Call<'_>) -> Result<(), Exit> {
    let reply = admin.client(output)?.call(call)?.json();
    if output == Output::Json {
        outln!("{reply}");
        return Ok(());
    }
    let text = |field: &str| reply[field].as_str().unwrap_or_default().to_owned();
    outln!("{}", text("api_key"));
    eprintln!("This is the key {}. It is shown this once.", text("key_id"));
    Ok(())
}

/// An object of the fields that are given.
fn given<'a>(fields: impl IntoIterator<Item = (&'a str, &'a Option<String>)>) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?))));
    Value::Object(given.collect())
}

impl Tiers {
    pub fn run(self, output: Output) -> Exit {
        let path = |name: &str| format!("/tiers/{}", segment(name));
        let done = match self {
            Self::List(Shared { admin }) => list(&admin, output, "/tiers", &["tier", "description", "created_at"]),
            Self::Put { name, description: None, admin } => {
                keep(&admin, output, path(&name), &json!({ "description": "" }))
            }
            Self::Put { name, description, admin } => {
                let call = Call::new("PUT", path(&name)).json(&json!({ "description": description }));
                change(&admin, output, call)
            }
            Self::Rm(Named { name, admin }) => change(&admin, output, Call::new("DELETE", path(&name))),
        };
        done.err().unwrap_or(Exit::Ok)
    }
}

impl Users {
    pub fn run(self, output: Output) -> Exit {
        let path = |name: &str| format!("/users/{}", segment(name));
        let done = match self {
            Self::List(Shared { admin }) => list(&admin, output, "/users", &["user", "tier", "created_at"]),
            Self::Put { name, tier: None, no_tier: false, admin } => keep(&admin, output, path(&name), &json!({})),
            Self::Put { name, tier, admin, .. } => {
                change(&admin, output, Call::new("PUT", path(&name)).json(&given([("tier", &tier)])))
            }
            Self::Rm(Named { name, admin }) => change(&admin, output, Call::new("DELETE", path(&name))),
        };
        done.err().unwrap_or(Exit::Ok)
    }
}

impl Keys {
    pub fn run(self, output: Output) -> Exit {
        let done = match self {
            Self::Create { user, tier, expires, admin } => {
                let call = Call::new("POST", format!("/users/{}/keys", segment(&user)));
                created(&admin, output, call.json(&given([("tier", &tier), ("expires", &expires)])))
            }
            Self::List { user, admin } => {
                let path = user.map_or_else(|| "/keys".to_owned(), |user| format!("/keys?user={}", segment(&user)));
                let columns = ["key_id", "prefix", "user", "tier", "created_at", "expires_at", "revoked_at"];
                list(&admin, output, &path, &columns)
            }
            Self::Revoke { id, yes, admin } => {
                let call = || Call::new("DELETE", format!("/keys/{}", segment(&id)));
                confirm(yes, &format!("Revoke the key {id}?")).and_then(|()| change(&admin, output, call()))
            }
            Self::Rotate { id, overlap, expires, admin } => {
                let call = Call::new("POST", format!("/keys/{}/rotate", segment(&id)));
                let end =
                    overlap.as_ref().map_or("at once".to_owned(), |overlap| format!("in {overlap} at the latest"));
                let done = created(&admin, output, call.json(&given([("overlap", &overlap), ("expires", &expires)])));
                done.inspect(|()| eprintln!("The old key {id} ends {end}."))
            }
        };
        done.err().unwrap_or(Exit::Ok)
    }
}
