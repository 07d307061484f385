//! `tidegate audit`.

use clap::Args;

use super::admin_client::AdminArgs;
use super::{Exit, Output, output};

const COLUMNS: [&str; 6] = ["at", "actor", "action", "table", "row", "revision"];

#[derive(Args)]
pub struct Audit {
    /// The most rows to show
    #[arg(long, default_value_t = 50, value_name = "ROWS")]
    limit: usize,
    #[command(flatten)]
    admin: AdminArgs,
}

impl Audit {
    pub fn run(self, output: Output) -> Exit {
        let rows = self.admin.client(output).and_then(|client| client.list_up_to("/audit", self.limit));
        let mut rows = match rows {
            Ok(rows) => rows,
            Err(exit) => return exit,
        };
        if output == Output::Table {
            // The rows before and after a change are too wide for a table.
            for row in rows.iter_mut().filter_map(|row| row.as_object_mut()) {
                row.retain(|name, _| COLUMNS.contains(&name.as_str()));
            }
        }
        output::rows(output, &COLUMNS, &rows);
        Exit::Ok
    }
}
