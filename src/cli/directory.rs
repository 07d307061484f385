//! `tidegate tiers`, `users` and `keys`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{AdminArgs, Call, segment};
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
        /// For people
        #[arg(long, default_value = "")]
        description: String,
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
        /// The tier of the user's keys that have none
        #[arg(long)]
        tier: Option<String>,
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
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Create a key for the same user, and let the old one expire
    Rotate {
        #[arg(value_name = "KEY_ID")]
        id: String,
        /// How long the old key still counts, such as 1h
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

fn list(admin: &AdminArgs, output: Output, path: &str) -> Result<(), Exit> {
    let rows = admin.client(output)?.list(path)?;
    output::rows(output, &rows);
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
            Self::List(Shared { admin }) => list(&admin, output, "/tiers"),
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
            Self::List(Shared { admin }) => list(&admin, output, "/users"),
            Self::Put { name, tier, admin } => {
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
                list(&admin, output, &path)
            }
            Self::Revoke { id, admin } => {
                change(&admin, output, Call::new("DELETE", format!("/keys/{}", segment(&id))))
            }
            Self::Rotate { id, overlap, admin } => {
                let call = Call::new("POST", format!("/keys/{}/rotate", segment(&id)));
                created(&admin, output, call.json(&given([("overlap", &overlap)])))
            }
        };
        done.err().unwrap_or(Exit::Ok)
    }
}
